#!/bin/bash
# A Slurm cluster of two emulated nodes on this machine, over the loopback: 16 and 8 pretended cores, 2 pretended GPUs each,
# host names of their own where the system lets us, a partition "scavenge" that "batch" preempts, PBS's variables as
# Slurm's qsub gives them. Needs root and Debian's slurmctld slurmd slurm-client munge.
#
#   tests/cluster/slurm.sh up DIR [KIND]   DIR/env.sh is what a shell has to read to use it
#   tests/cluster/slurm.sh lose DIR NODE   all that runs on it dies at once; the controller is not told
#   tests/cluster/slurm.sh down DIR
#
# KIND  confined: one node with this machine's own cores; each job is confined to its cores by cgroups
#       qos: jobs of the quality of service "urgent" preempt those of "normal"; needs slurmdbd and mariadb-server too
set -euo pipefail
command=$1 dir=$2 kind=${3:-}
export SLURM_CONF=$dir/etc/slurm.conf
PATH=$PATH:/usr/sbin
nodes=(vnode1 vnode2)
if [ "$kind" = confined ]; then nodes=(vnode1); fi
host=$(uname -n)
host=${host%%.*}
propagation=()

# is PID-FILE PROGRAM: prints the pid if that process still is the program
is() {
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 0
    if [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$2"* ]]; then echo "$pid"; fi
}
# until_true SECONDS COMMAND...: polls; fails when the time is over
until_true() {
    local end=$((SECONDS + $1))
    until "${@:2}"; do
        if [ $SECONDS -ge $end ]; then return 1; fi
        sleep 0.1
    done
}
# "idle*" has not answered yet
idle() { [ "$(timeout 20 sinfo -h -N -p batch -o %t 2>/dev/null | grep -cx idle)" = ${#nodes[@]} ]; }
empty() { [ -z "$(timeout 20 squeue -h -o %A 2>/dev/null)" ]; }
# a zombie is gone
gone() { ! ps -o stat= -p "$1" 2>/dev/null | grep -qv '^Z'; }
daemons() { cat "$dir/daemons" 2>/dev/null || true; }
pid_of() { is "$dir/run/$1.pid" "${1%%-*}"; }
runs() { [ -n "$(pid_of "$1")" ]; }
# why_not: which daemon does not run, and what it said; if all run, what the nodes say
why_not() {
    local name missing=()
    for name in $(daemons); do
        if ! runs "$name"; then missing+=("$name"); fi
    done
    if [ ${#missing[@]} = 0 ]; then
        echo "all daemons run, but not all nodes are idle:"
        timeout 20 sinfo -N -l || true
        mapfile -t missing < <(daemons)
    fi
    for name in "${missing[@]}"; do
        if ! runs "$name"; then echo "$name does not run"; fi
        echo "the end of $dir/log/$name.log:"
        tail -n 10 "$dir/log/$name.log" || true
    done
} >&2
# apart HOST COMMAND...: with that host name, the cluster's hosts and a shared memory of its own, where the system lets us
apart() {
    if [ "$own" != yes ]; then
        timeout 60 "${@:2}"
    else
        # shellcheck disable=SC2016
        timeout 60 unshare --uts --mount "${propagation[@]}" sh -c 'hostname "$1" && mount -t tmpfs -o mode=1777 none /dev/shm &&
            mount --bind "$2" /etc/hosts && shift 2 && exec "$@"' sh "$1" "$dir/etc/hosts" "${@:2}"
    fi
}

# confines: does the system let us confine processes to cores? Says why not.
confines() {
    local parent=/sys/fs/cgroup/cpuset
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        parent=/sys/fs/cgroup
        grep -qw cpuset $parent/cgroup.controllers || { echo "error: no cpuset among $parent/cgroup.controllers" && return 1; }
    fi
    mkdir "$parent/vaecf.$$" && rmdir "$parent/vaecf.$$"
} >&2

configure() {
    local port=$((20000 + $$ % 3000 * 4)) cgroups tasks pretended cores i
    mkdir -p "$dir"/{etc,run,log,dev,state,spool,munge,db}
    chmod 755 "$dir"
    chmod 700 "$dir/munge" "$dir/db"
    dd if=/dev/urandom of="$dir/munge/key" bs=1024 count=1 status=none
    chmod 600 "$dir/munge/key"
    for i in 0 1; do ln -s /dev/null "$dir/dev/nvidia$i"; done # Slurm wants character devices
    cat >"$dir/etc/gres.conf" <<E
NodeName=$(IFS=, && echo "${nodes[*]}") Name=gpu File=$dir/dev/nvidia[0-1]
E
    if [ "$kind" = confined ]; then
        printf '%s\n' CgroupPlugin=autodetect ConstrainCores=yes >"$dir/etc/cgroup.conf"
        if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo IgnoreSystemd=yes >>"$dir/etc/cgroup.conf"; fi
        tasks=task/affinity,task/cgroup pretended=
        i=$(slurmd -C | grep -oE '(CPUs|SocketsPerBoard|CoresPerSocket|ThreadsPerCore)=[0-9]+' | paste -sd' ')
        cores=("$i")
    else
        # No plugin uses cgroups, but a slurmd that finds none does not start, unless it is told. 22.05 knows no
        # "disabled", and its cgroup/v1 looks for none before it has to.
        cgroups=disabled
        if [[ $(slurmd -V) == *" 22."* ]]; then cgroups=cgroup/v1; fi
        echo "CgroupPlugin=$cgroups" >"$dir/etc/cgroup.conf"
        tasks=task/none pretended=config_overrides
        cores=(CPUs=16 CPUs=8)
    fi
    # What spank_pbs leaves out of PBS's variables; a prolog's lines "export N=V" reach the job.
    find /usr/lib -name spank_pbs.so -printf 'optional %p\n' 2>/dev/null | head -n 1 >"$dir/etc/plugstack.conf"
    cat >"$dir/etc/prolog" <<'E'
#!/bin/sh
if [ -z "$SLURM_STEP_ID" ] && file=$(generate_pbs_nodefile 2>/dev/null); then
    echo "export PBS_NODEFILE=$file"
    echo "export PBS_ENVIRONMENT=PBS_BATCH"
    echo "export PBS_QUEUE=$SLURM_JOB_PARTITION"
fi
exit 0
E
    chmod 755 "$dir/etc/prolog"
    # With so many cores all jobs of a test have room: a full node would preempt "scavenge" once more.
    cat >"$SLURM_CONF" <<E
ClusterName=vaecf
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
${listen:+CommunicationParameters=$listen}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock,cred_expire=120
CredType=cred/munge
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdPidFile=$dir/run/slurmd-%n.pid
SlurmdLogFile=$dir/log/slurmd-%n.log
SlurmdSpoolDir=$dir/spool/%n
StateSaveLocation=$dir/state
TmpFS=$dir/tmp/%n
PlugStackConfig=$dir/etc/plugstack.conf
TaskProlog=$dir/etc/prolog
ProctrackType=proctrack/linuxproc
TaskPlugin=$tasks
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmctldParameters=preempt_send_user_signal
ReturnToService=1
KillWait=5
MinJobAge=3600
JobRequeue=1
${pretended:+SlurmdParameters=$pretended}
GresTypes=gpu
JobCompType=jobcomp/none
E
    for i in "${!nodes[@]}"; do
        echo "NodeName=${nodes[i]} NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1 + i)) ${cores[i]} RealMemory=4000 Gres=gpu:2 Weight=$((i + 1))"
    done >>"$SLURM_CONF"
    if [ "$kind" = qos ]; then
        cat >>"$SLURM_CONF" <<E
PreemptType=preempt/qos
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 3))
AccountingStoragePass=$dir/run/munge.sock
AccountingStorageEnforce=qos
PartitionName=batch Nodes=ALL Default=YES State=UP
E
        cat >"$dir/etc/slurmdbd.conf" <<E
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$((port + 3))
SlurmUser=root
PidFile=$dir/run/slurmdbd.pid
LogFile=$dir/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
E
        chmod 600 "$dir/etc/slurmdbd.conf"
    else
        cat >>"$SLURM_CONF" <<E
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
PartitionName=batch Nodes=ALL Default=YES PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=scavenge Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=300 State=UP
E
    fi
}

# The database, reached by its socket alone, and what accounts for jobs in it.
account() {
    export MYSQL_UNIX_PORT=$dir/db/socket
    mariadb-install-db --no-defaults --user=root --datadir="$dir/db/data" --skip-test-db --auth-root-authentication-method=normal \
        >"$dir/log/mariadbd.log" 2>&1
    setsid mariadbd --no-defaults --user=root --datadir="$dir/db/data" --socket="$MYSQL_UNIX_PORT" --skip-networking \
        --pid-file="$dir/run/mariadbd.pid" --innodb-flush-log-at-trx-commit=0 --innodb-buffer-pool-size=32M \
        </dev/null >>"$dir/log/mariadbd.log" 2>&1 &
    until_true 30 timeout 10 mariadb-admin --no-defaults --socket="$MYSQL_UNIX_PORT" --silent ping >/dev/null
    apart "$host" slurmdbd
    until_true 30 counts
    {
        timeout 30 sacctmgr -i add cluster vaecf
        timeout 30 sacctmgr -i modify qos normal set PreemptMode=requeue GraceTime=300
        timeout 30 sacctmgr -i add qos urgent Preempt=normal Priority=100
        timeout 30 sacctmgr -i add account test
        timeout 30 sacctmgr -i add user "$(id -nu 65534)" Account=test QOS=normal,urgent DefaultQOS=normal
    } >"$dir/log/sacctmgr.log" 2>&1
}
counts() { timeout 10 sacctmgr -n show qos >/dev/null 2>&1; }

# requeue_soon: starts requeued jobs after five seconds. Slurm itself lets them wait until the credentials of their last start
# have expired. Those live for two minutes here: if a machine stalls for longer than they live, the start of a step fails.
requeue_soon() {
    local id now
    declare -A since
    while runs slurmctld; do
        now=$SECONDS
        while read -r id; do
            if [ $((now - ${since[$id]:=$now})) -ge 5 ]; then
                timeout 20 scontrol update "JobId=$id" StartTime=now || true
                unset "since[$id]"
            fi
        done < <(timeout 20 squeue -h -t PENDING -O 'JobID:.20,RestartCnt:.20,Reason:.20' |
            awk '$2 > 0 && $3 == "BeginTime" { print $1 }')
        sleep 0.5
    done
}

up() {
    local node
    if [ "$kind" = confined ]; then confines; fi
    trap '[ $? = 0 ] || why_not' EXIT
    mkdir -p "$dir/etc"
    {
        echo munged
        if [ "$kind" = qos ]; then printf '%s\n' mariadbd slurmdbd; fi
        printf '%s\n' slurmctld "${nodes[@]/#/slurmd-}"
    } >"$dir/daemons"
    printf '127.0.0.1 %s\n' localhost "$host" "${nodes[@]}" >"$dir/etc/hosts"
    # Where no mount is shared, none has to be made private; in a chroot that cannot be done.
    if ! grep -q ' shared:' /proc/self/mountinfo; then propagation=(--propagation unchanged); fi
    own=yes
    own=$(apart x echo yes 2>/dev/null || true)
    # The daemons listen on the address of their host's name, if that is the loopback's.
    listen=NoCtldInAddrAny,NoInAddrAny
    if ! apart "$host" getent ahostsv4 "$host" | grep -q '^127\.0\.0\.1 '; then listen=; fi
    configure
    apart "$host" munged --key-file="$dir/munge/key" --socket="$dir/run/munge.sock" --pid-file="$dir/run/munged.pid" \
        --log-file="$dir/log/munged.log" --seed-file="$dir/munge/seed"
    if [ "$kind" = qos ]; then account; fi
    apart "$host" slurmctld -f "$SLURM_CONF"
    until_true 20 runs slurmctld
    requeue_soon </dev/null >"$dir/log/requeue.log" 2>&1 &
    echo $! >"$dir/run/requeue.pid"
    {
        echo "export SLURM_CONF='$SLURM_CONF'"
        # Open MPI leaves lo out, and then has nothing
        echo 'export OMPI_MCA_oob_tcp_if_include=lo OMPI_MCA_btl_tcp_if_include=lo'
        # Nodes of one name would share their shared memory.
        if [ "$own" != yes ]; then echo 'export OMPI_MCA_btl=self,tcp'; fi
    } >"$dir/env.sh"
    for node in "${nodes[@]}"; do
        mkdir -p "$dir/spool/$node" "$dir/tmp/$node"
        chmod 1777 "$dir/tmp/$node"
        apart "$node" slurmd -f "$SLURM_CONF" -N "$node"
    done
    until_true "$([ "$kind" = confined ] && echo 15 || echo 60)" idle
}

down() {
    local name pid
    pid=$(is "$dir/run/requeue.pid" slurm.sh)
    if [ -n "$pid" ]; then kill "$pid"; fi
    if runs slurmctld; then # its jobs first
        timeout 20 squeue -h -o %A 2>/dev/null | sort -u | timeout 60 xargs -r scancel -f 2>/dev/null || true
        until_true 30 empty || true
    fi
    for name in $(daemons | tac); do
        pid=$(pid_of "$name")
        if [ -z "$pid" ]; then continue; fi
        kill "$pid" 2>/dev/null || true
        until_true 20 gone "$pid" || kill -9 "$pid" 2>/dev/null || true
        if [[ $name == slurmd-* ]]; then # its cgroups, which are empty by now
            find /sys/fs/cgroup -depth -type d -path "*/slurm_${name#*-}*" -exec rmdir {} + 2>/dev/null || true
        fi
    done
}

# lose NODE: its daemon and the steps first, so that none of them lives to tell of an end
lose() {
    local file pid parent steps=() tasks=()
    for file in /proc/[0-9]*/environ; do
        if ! grep -zqsx "SLURMD_NODENAME=$1" "$file" || ! grep -zqsx "SLURM_CONF=$SLURM_CONF" "$file"; then continue; fi
        pid=${file//[^0-9]/}
        tasks+=("$pid")
        parent=$(sed -n 's/^PPid:\s*//p' "/proc/$pid/status" 2>/dev/null)
        if [ "$(cat "/proc/${parent:-0}/comm" 2>/dev/null)" = slurmstepd ]; then steps+=("$parent"); fi
    done
    kill -KILL "$(pid_of "slurmd-$1")" "${steps[@]}" "${tasks[@]}" 2>/dev/null || true
    for pid in "${tasks[@]}"; do until_true 10 gone "$pid"; done
}

case $command in
up) up ;;
lose) lose "$3" ;;
down) down ;;
*) echo "error: $command: want up, lose or down" >&2 && exit 64 ;;
esac
