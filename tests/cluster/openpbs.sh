#!/bin/bash
# A real OpenPBS of two execution hosts on this machine, vpbs1 and vpbs2, in namespaces of their own: the machine's network,
# /etc and /dev/shm are not touched. 16 pretended cores each; the queues workq (the default) and fed, which takes jobs from
# the routing queue feed alone; a user "student". Needs root, an OpenPBS in $PBS_EXEC (/opt/pbs) and PostgreSQL.
#
#   tests/cluster/openpbs.sh build              makes one, from the checkout in $OPENPBS_SOURCE; without that, tells how
#   tests/cluster/openpbs.sh up DIR             DIR/env.sh is what a shell has to read to use it
#   tests/cluster/openpbs.sh enter DIR COMMAND...       as root on vpbs1
#   tests/cluster/openpbs.sh as_user DIR COMMAND...     as student on vpbs1
#   tests/cluster/openpbs.sh on HOST DIR COMMAND...     as root on that host
#   tests/cluster/openpbs.sh server DIR         starts the server again after `enter DIR qterm -t quick`
#   tests/cluster/openpbs.sh down DIR
#   tests/cluster/openpbs.sh check [DIR]        jobs/pbs/ on it; without DIR on the site's PBS, if there is one, or on a
#                                               cluster that is made for it. ROUTE=QUEUE: a routing queue of the site
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
command=${1:-check} dir=${2:-}
if [ "$command" = on ]; then dir=${3:-}; fi
exec_dir=${PBS_EXEC:-/opt/pbs}
home=/var/spool/pbs # within the namespaces; not below /tmp, where everybody may write
user=student uid=64321
hosts=(vpbs1 vpbs2)
network=10.213.77 # of the namespaces alone

fail() {
    echo "error: $*" >&2
    exit 1
}
# until_true SECONDS COMMAND...: polls; fails when the time is over
until_true() {
    local end=$((SECONDS + $1))
    until "${@:2}"; do
        if [ $SECONDS -ge $end ]; then return 1; fi
        sleep 0.2
    done
}

# ---- the hosts ----
# init HOST: the first process of a host. Its end is the end of all that runs there.
init() {
    hostname "$1"
    mount --make-rprivate / 2>/dev/null || true # where nothing is shared, it needs no change
    mount -t proc proc /proc
    mount -t tmpfs -o mode=1777 none /dev/shm
    mount -t tmpfs -o mode=1777 none /var/tmp # PBS has a folder of each job there
    mount -t tmpfs -o mode=755 none /run
    mkdir -m 1777 /run/lock /run/postgresql
    mount -t tmpfs -o mode=755 none /var/spool
    mkdir "$home"
    mount --bind "$dir/$1" "$home"
    mount --bind "$dir/etc" /etc
    ip link set lo up
    touch "$dir/run/$1.ready"
    sleep infinity &
    wait $!
}
# pid_of HOST: of its first process, if that is still there
pid_of() {
    local pid
    pid=$(cat "$dir/run/$1.pid" 2>/dev/null) || return 1
    grep -zqsx init "/proc/$pid/cmdline" && echo "$pid"
}
# on HOST COMMAND...: as root, in the folder that this was called from
on() {
    local pid
    pid=$(pid_of "$1") || fail "$1 of $dir is not there"
    nsenter -t "$pid" -m -u -n -p --wdns="$PWD" -- env -u PBS_CONF_FILE PATH="$exec_dir/bin:$exec_dir/sbin:$PATH" "${@:2}"
}
limited() { on "$1" timeout -k 5 "${@:2}"; } # limited HOST SECONDS COMMAND...
as_user() { on vpbs1 setpriv --reuid=$uid --regid=$uid --clear-groups env HOME="$dir/home" USER=$user LOGNAME=$user SHELL=/bin/bash "$@"; }

make_etc() {
    local i
    cp -a /etc "$dir/etc"
    for i in 0 1; do echo "$network.$((i + 1)) ${hosts[i]}"; done >"$dir/hosts"
    echo '127.0.0.1 localhost' | cat - "$dir/hosts" >"$dir/etc/hosts"
    echo "$user:x:$uid:$uid::$dir/home:/bin/bash" >>"$dir/etc/passwd"
    echo "$user:x:$uid:" >>"$dir/etc/group"
    echo "PATH=$exec_dir/bin:\$PATH # before those of slurm-wlm-torque" >"$dir/etc/profile.d/zz-pbs.sh"
    cat >"$dir/etc/pbs.conf" <<C
PBS_EXEC=$exec_dir
PBS_HOME=$home
PBS_SERVER=vpbs1
PBS_START_SERVER=1
PBS_START_SCHED=1
PBS_START_COMM=1
PBS_START_MOM=0
PBS_CORE_LIMIT=0
PBS_SCP=/bin/cp
PBS_RCP=/bin/false
C
}
start_host() { # start_host HOST
    mkdir -p "$dir/$1"
    setsid unshare --mount --uts --net --pid --fork --kill-child "$here/openpbs.sh" init "$dir" "$1" \
        >"$dir/log/$1" 2>&1 </dev/null &
    until_true 20 test -e "$dir/run/$1.ready" || fail "$1 does not start: $(cat "$dir/log/$1")"
    pgrep -P $! >"$dir/run/$1.pid" # unshare's child
    pid_of "$1" >/dev/null || fail "$1 ended: $(cat "$dir/log/$1")"
}
join_hosts() {
    local i pids
    mapfile -t pids < <(pid_of vpbs1; pid_of vpbs2)
    nsenter -t "${pids[0]}" -n ip link add eth0 type veth peer name eth0 netns "${pids[1]}"
    for i in 0 1; do
        nsenter -t "${pids[i]}" -n ip address add "$network.$((i + 1))/24" dev eth0
        nsenter -t "${pids[i]}" -n ip link set eth0 up
    done
}

# ---- its daemons ----
are_free() { [ "$(limited vpbs1 20 pbsnodes -a 2>/dev/null | grep -c '^ *state = free$')" = ${#hosts[@]} ]; }
start_server() { # also what qterm ended
    limited vpbs1 60 pbs_server >>"$dir/log/server" 2>&1 || fail "pbs_server: $(tail "$dir/log/server")"
    until_true 30 limited vpbs1 10 qstat -B >/dev/null 2>&1 || fail "the server does not answer"
}
configure() {
    limited vpbs1 60 qmgr >"$dir/log/qmgr" 2>&1 <<'C'
set server flatuid = True
set server job_history_enable = True
set server scheduler_iteration = 10
set server scheduling = True
set server default_queue = workq
create queue fed queue_type = Execution, enabled = True, started = True, from_route_only = True
create queue feed queue_type = Route, route_destinations = fed, enabled = True, started = True
create node vpbs1
create node vpbs2
set node vpbs1 resources_available.ncpus = 16
set node vpbs2 resources_available.ncpus = 16
C
}
# why_not: the ends of the logs
why_not() {
    local file
    for file in "$dir"/log/* "$dir"/vpbs*/*_logs/*; do
        if [ -s "$file" ]; then echo "the end of $file:" && tail -n 10 "$file"; fi
    done
    if [ -e "$dir/run/vpbs2.pid" ]; then limited vpbs1 20 pbsnodes -a || true; fi
} >&2

up() {
    local host
    [ "$(id -u)" = 0 ] || fail "namespaces and daemons take root"
    [ -x "$exec_dir/sbin/pbs_server.bin" ] || fail "no OpenPBS in $exec_dir: see $0 build, or set PBS_EXEC"
    [ -u "$exec_dir/sbin/pbs_iff" ] || fail "chmod 4755 $exec_dir/sbin/pbs_iff: users do not get in without"
    [ ! -e "$dir/run" ] || fail "$dir has been used: want a new folder"
    mkdir -p "$dir"/{run,log,home}
    dir=$(cd "$dir" && pwd)
    trap '[ $? = 0 ] || { why_not; down; }' EXIT
    chmod 755 "$dir" && chown $uid:$uid "$dir/home"
    make_etc
    for host in "${hosts[@]}"; do start_host "$host"; done
    join_hosts
    limited vpbs1 120 "$exec_dir/libexec/pbs_habitat" >"$dir/log/habitat" 2>&1 || fail "pbs_habitat"
    limited vpbs2 60 "$exec_dir/libexec/pbs_postinstall" execution "" "$exec_dir" "$home" sameconf >"$dir/log/postinstall" 2>&1 || fail "pbs_postinstall"
    limited vpbs1 20 pbs_comm >"$dir/log/comm" 2>&1
    start_server
    for host in "${hosts[@]}"; do
        # shellcheck disable=SC2016
        echo '$usecp *:/ /' >"$dir/$host/mom_priv/config" # all files are shared
        limited "$host" 30 pbs_mom >"$dir/log/mom-$host" 2>&1
    done
    limited vpbs1 20 pbs_sched >"$dir/log/sched" 2>&1
    configure
    until_true 60 are_free || fail "not both hosts are free"
    echo "PATH=$exec_dir/bin:\$PATH; pbs() { '$here/openpbs.sh' as_user '$dir' \"\$@\"; } # pbs qsub ..., as $user on vpbs1" >"$dir/env.sh"
}
down() {
    local host pid
    for host in "${hosts[@]}"; do
        if ! pid=$(pid_of "$host"); then continue; fi
        kill -KILL "$pid"
        until_true 20 test ! -e "/proc/$pid" || fail "$host does not end"
    done
}

# ---- the programs ----
build() {
    local version=v23.06.06 packages=(gcc g++ make libtool autoconf automake bison flex perl swig python3-dev tcl-dev tk-dev
        libhwloc-dev libx11-dev libxt-dev libxext-dev libxft-dev libedit-dev libncurses-dev libexpat1-dev libssl-dev
        libical-dev libcjson-dev postgresql postgresql-contrib postgresql-server-dev-all)
    if [ -z "${OPENPBS_SOURCE:-}" ]; then
        echo "apt-get install -y --no-install-recommends ${packages[*]}"
        echo "git clone --branch $version https://github.com/openpbs/openpbs"
        echo "OPENPBS_SOURCE=openpbs PBS_EXEC=$exec_dir $0 build"
        return
    fi
    export PATH=/usr/sbin:/usr/bin:/sbin:/bin # the system's Python
    apt-get install -y --no-install-recommends "${packages[@]}"
    cd "$OPENPBS_SOURCE"
    sed -i '/#include <eval.h>/d' src/lib/Libpython/pbs_python_external.c # Python 3.11 has no such file
    ./autogen.sh
    ./configure --prefix="$exec_dir" --sysconfdir="$exec_dir/etc" --with-pbs-server-home=$home \
        CFLAGS="-O1 -w $(python3-config --includes)"
    make -j"$(nproc)" && make install
    chmod 4755 "$exec_dir"/sbin/pbs_{iff,rcp}
}

# ---- the checks ----
# check_in FOLDER AS-USER...: both kinds of them; AS-USER are the words that make a command the user's
check_in() {
    local folder=$1 bad=0
    shift
    mkdir -p "$folder"/{common,real,source/tests/cluster}
    cp -r "$here"/../../{jobs,bin} "$folder/source/"
    cp "$here/pbs_checks.sh" "$folder/source/tests/cluster/"
    if [ -n "$dir" ]; then chown -R $uid:$uid "$folder"; fi
    "$@" timeout 900 "$folder/source/tests/cluster/pbs_checks.sh" "$folder/common" || bad=1
    timeout 1800 "$here/openpbs_checks.sh" "$folder/real" ${dir:+"$dir"} || bad=1
    return $bad
}
# has_news: has the server heard of all jobs since they began? A restart would requeue the others.
has_news() { ! limited vpbs1 20 qstat -f 2>/dev/null | grep -q '^ *substate = 41$'; }
# The user's `ask away` and `ask back` stop and start the server.
answer() {
    while sleep 0.2; do
        if [ -e "$dir/home/away" ]; then until_true 60 has_news && on vpbs1 qterm -t quick && rm "$dir/home/away"; fi
        if [ -e "$dir/home/back" ]; then start_server && rm "$dir/home/back"; fi
    done
}
make_ask() {
    cat >"$dir/ask" <<A
#!/bin/bash
touch "$dir/home/\$1"
for ((n = 0; n < 400; n++)); do if [ ! -e "$dir/home/\$1" ]; then exit; fi; sleep 0.2; done
exit 1
A
    chmod 755 "$dir/ask"
}
check_lab() {
    local folder bad=0 answerer
    dir=$(cd "$dir" && pwd)
    folder=$(mktemp -d "$dir/home/checks.XXXX")
    chmod 755 "$folder"
    make_ask
    answer &
    answerer=$!
    check_in "$folder" as_user env CHECK_ROUTE=feed CHECK_AWAY="$dir/ask away" CHECK_BACK="$dir/ask back" || bad=1
    kill $answerer
    return $bad
}
check() {
    local bad=0
    if [ -z "$dir" ] && timeout 60 qstat -B -f 2>/dev/null | grep -q '^ *pbs_version = '; then # Slurm's qstat has no such line
        check_in "$(mktemp -d "$PWD/pbs-checks.XXXX")" env CHECK_ROUTE="${ROUTE:-}" || bad=1
    elif [ -n "$dir" ]; then
        check_lab || bad=1
    elif [ "$(id -u)" = 0 ] && [ -x "$exec_dir/sbin/pbs_server.bin" ]; then
        dir=$(mktemp -d /tmp/vaecf-pbs.XXXX)
        "$0" up "$dir"
        trap '"$0" down "$dir"; rm -rf "$dir"' EXIT
        check_lab || bad=1
    else
        echo "skipped: no PBS on the PATH, and no OpenPBS in $exec_dir that root could start ($0 build)"
        exit 77
    fi
    return $bad
}

case $command in
init) init "$3" ;;
build) build ;;
up) up ;;
down) down ;;
server) start_server ;;
enter) on vpbs1 "${@:3}" ;;
as_user) as_user "${@:3}" ;;
on) on "$2" "${@:4}" ;;
check) check ;;
*) fail "$command: want build, up, enter, as_user, on, server, down or check" ;;
esac
