#!/usr/bin/env bash
# Starts a real Slurm with accounting on this machine, for tests: controller, database and one
# daemon for each node, all on localhost.
#
#   SLURM_LAB=DIR launch/slurm/up.sh [NODES]     prints the nodes when they are ready
#   export SLURM_CONF=DIR/slurm.conf             what Slurm's commands then need
#   SLURM_LAB=DIR launch/slurm/down.sh           stops it
#
# Needs root and the Debian packages slurm-wlm, munge, slurmdbd and mariadb-server. It changes the
# machine: it adds the nodes' names to /etc/hosts, links /etc/slurm/slurmdbd.conf, and makes a munge
# key if there is none. So use it in a container or a test machine.
set -euo pipefail

nodes=${1:-2}
lab=${SLURM_LAB:?set SLURM_LAB to a folder of its own}
host=$(hostname -s)
controller_port=16817 database_port=16819 node_port=17000

need() {
  local missing=() command
  for command in munged slurmctld slurmd slurmdbd mariadbd mariadb-install-db; do
    command -v "$command" >/dev/null || missing+=("$command")
  done
  if ((${#missing[@]})); then
    echo "not found: ${missing[*]}; apt-get install --no-install-recommends slurm-wlm munge slurmdbd mariadb-server" >&2
    exit 2
  fi
  ((EUID == 0)) || { echo "must run as root: each of its daemons wants to" >&2; exit 2; }
}

# Waits until the command that follows the number of tenths of a second succeeds.
await() {
  local tenths=$1
  shift
  for ((i = 0; i < tenths; i++)); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.1
  done
  echo "gave up waiting for: $*; see $lab/log" >&2
  return 1
}

# A multi-node job meets at the name of its first node.
name_nodes() {
  local name
  for name in "$host" $(seq -f 'n%g' "$nodes"); do
    getent hosts "$name" >/dev/null || echo "127.0.0.1 $name" >>/etc/hosts
  done
}

start_munge() {
  [[ -s /etc/munge/munge.key ]] || head -c 1024 /dev/urandom >/etc/munge/munge.key
  chown munge: /etc/munge/munge.key
  chmod 400 /etc/munge/munge.key
  install -d -o munge -g munge -m 0755 /run/munge
  install -d -o munge -g munge -m 0700 /var/log/munge /var/lib/munge
  munge -n >/dev/null 2>&1 || su -s /bin/sh munge -c "$(command -v munged)"
  await 100 munge -n
}

write_slurm_conf() {
  cat >"$lab/slurm.conf" <<CONF
ClusterName=lab
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=$controller_port
AuthType=auth/munge
CredType=cred/munge
# A container has no cgroups; linuxproc needs none.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
MpiDefault=none
ReturnToService=2
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$database_port
JobCompType=jobcomp/none
StateSaveLocation=$lab/state
SlurmdSpoolDir=$lab/spool/%n
SlurmdPidFile=$lab/%n.pid
SlurmctldPidFile=$lab/slurmctld.pid
SlurmdLogFile=$lab/log/%n.log
SlurmctldLogFile=$lab/log/slurmctld.log
SlurmctldTimeout=30
SlurmdTimeout=30
KillWait=3
MinJobAge=60
CONF
  local number
  for number in $(seq "$nodes"); do
    # Two cores each, whatever the machine has: config_overrides takes our word for it.
    echo "NodeName=n$number NodeHostname=$host NodeAddr=127.0.0.1 Port=$((node_port + number)) CPUs=2 RealMemory=6000 State=UNKNOWN"
  done >>"$lab/slurm.conf"
  cat >>"$lab/slurm.conf" <<CONF
SlurmdParameters=config_overrides
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

# torchx asks sacct how a job ended, and sacct needs a database.
start_database() {
  install -d -o mysql -g mysql /run/mysqld "$lab/mysql"
  [[ -d $lab/mysql/mysql ]] || mariadb-install-db --user=mysql --datadir="$lab/mysql" \
    --auth-root-authentication-method=socket >"$lab/log/mysql.log" 2>&1
  mariadbd --no-defaults --user=mysql --datadir="$lab/mysql" --socket="$lab/mysql/lab.sock" \
    --skip-networking --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 \
    --pid-file="$lab/mysql/mariadb.pid" </dev/null >>"$lab/log/mysql.log" 2>&1 &
  await 200 mariadb --socket="$lab/mysql/lab.sock" -e 'create database if not exists slurm_acct_db'
  cat >"$lab/slurmdbd.conf" <<CONF
AuthType=auth/munge
DbdHost=localhost
DbdPort=$database_port
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
LogFile=$lab/log/slurmdbd.log
PidFile=$lab/slurmdbd.pid
CONF
  chmod 600 "$lab/slurmdbd.conf"
  # slurmdbd reads the file of this name beside slurm.conf; some builds only the one in /etc.
  install -d /etc/slurm
  ln -sf "$lab/slurmdbd.conf" /etc/slurm/slurmdbd.conf
  # Its client library looks for the socket where Debian has it.
  ln -sf "$lab/mysql/lab.sock" /run/mysqld/mysqld.sock
  slurmdbd
  await 200 sacctmgr -n -i list cluster
  sacctmgr -n list cluster format=cluster | grep -qw lab || sacctmgr -i -Q add cluster lab >/dev/null
}

start_slurm() {
  slurmctld -f "$SLURM_CONF"
  local number
  for number in $(seq "$nodes"); do
    mkdir -p "$lab/spool/n$number"
    slurmd -N "n$number" -f "$SLURM_CONF"
  done
  await 200 all_idle
}

all_idle() {
  [[ $(sinfo -h -t idle -o %D) == "$nodes" ]]
}

need
mkdir -p "$lab"/{state,spool,log}
# mysql runs as its own user, which must be able to reach its folder.
chmod 755 "$lab"
name_nodes
start_munge
write_slurm_conf
export SLURM_CONF=$lab/slurm.conf
start_database
start_slurm
sinfo -N -l
