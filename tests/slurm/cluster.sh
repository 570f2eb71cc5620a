#!/bin/bash
# A Slurm cluster of two emulated nodes on this machine, over the loopback: 16 pretended cores and 2 pretended GPUs each,
# host names of their own where the system lets us, a partition "scavenge" that "batch" preempts, PBS's variables as
# Slurm's qsub gives them. Needs root and Debian's slurmctld slurmd slurm-client munge.
#
#   tests/slurm/cluster.sh up DIR      DIR/env.sh is what a shell has to read to use it
#   tests/slurm/cluster.sh lose DIR NODE   all that runs on it dies at once; the controller is not told
#   tests/slurm/cluster.sh down DIR
set -euo pipefail
command=$1 dir=$2
export SLURM_CONF=$dir/etc/slurm.conf
PATH=$PATH:/usr/sbin
nodes=(vnode1 vnode2)
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
daemons() { printf '%s\n' munged slurmctld "${nodes[@]/#/slurmd-}"; }
pid_of() { is "$dir/run/$1.pid" "${1%%-*}"; }
# why_not: which daemon does not run, and what it said; if all run, what the nodes say
why_not() {
    local name missing=()
    for name in $(daemons); do
        if [ -z "$(pid_of "$name")" ]; then missing+=("$name"); fi
    done
    if [ ${#missing[@]} = 0 ]; then
        echo "all daemons run, but not all nodes are idle:"
        timeout 20 sinfo -N -l || true
        mapfile -t missing < <(daemons)
    fi
    for name in "${missing[@]}"; do
        if [ -z "$(pid_of "$name")" ]; then echo "$name does not run"; fi
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

configure() {
    local port=$((20000 + $$ % 4000 * 3)) cgroups i
    mkdir -p "$dir"/{etc,run,log,dev,state,spool,munge}
    chmod 755 "$dir"
    chmod 700 "$dir/munge"
    dd if=/dev/urandom of="$dir/munge/key" bs=1024 count=1 status=none
    chmod 600 "$dir/munge/key"
    for i in 0 1; do ln -s /dev/null "$dir/dev/nvidia$i"; done # Slurm wants character devices
    cat >"$dir/etc/gres.conf" <<E
NodeName=${nodes[0]},${nodes[1]} Name=gpu File=$dir/dev/nvidia[0-1]
E
    # No plugin below uses cgroups, but a slurmd that finds none does not start, unless it is told. 22.05 knows no
    # "disabled", and its cgroup/v1 looks for none before it has to.
    cgroups=disabled
    if [[ $(slurmd -V) == *" 22."* ]]; then cgroups=cgroup/v1; fi
    echo "CgroupPlugin=$cgroups" >"$dir/etc/cgroup.conf"
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
    # With 16 cores all jobs of the test have room: a full node would preempt "scavenge" once more.
    cat >"$SLURM_CONF" <<E
ClusterName=vaecf
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
${listen:+CommunicationParameters=$listen}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock,cred_expire=5
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
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
KillWait=5
MinJobAge=3600
JobRequeue=1
SlurmdParameters=config_overrides
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
NodeName=${nodes[0]} NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=16 RealMemory=4000 Gres=gpu:2
NodeName=${nodes[1]} NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=16 RealMemory=4000 Gres=gpu:2
PartitionName=batch Nodes=ALL Default=YES PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=scavenge Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=300 State=UP
E
}

up() {
    local node
    trap '[ $? = 0 ] || why_not' EXIT
    mkdir -p "$dir/etc"
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
    apart "$host" slurmctld -f "$SLURM_CONF"
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
    until_true 60 idle
}

down() {
    local name pid
    if [ -n "$(pid_of slurmctld)" ]; then # its jobs first
        timeout 20 squeue -h -o %A 2>/dev/null | sort -u | timeout 60 xargs -r scancel -f 2>/dev/null || true
        until_true 30 empty || true
    fi
    for name in $(daemons | tac); do
        pid=$(pid_of "$name")
        if [ -z "$pid" ]; then continue; fi
        kill "$pid" 2>/dev/null || true
        until_true 20 gone "$pid" || kill -9 "$pid" 2>/dev/null || true
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
