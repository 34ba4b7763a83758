#!/usr/bin/env bash
# Scenes as jobs of a real Slurm, on a cluster of this one machine that exists while the script runs.
#
#     sudo apt-get install slurm-wlm
#     sudo benchmarks/on_slurm.sh [FOLDER]
#
# Two sample rooms with few steps, each on one core. One job is cancelled, of another all processes are killed; both have
# to be handed in again as they were, and go on. Then the same command is given once more, and has to find both exports.
# The cluster keeps no accounts (no sacct), as many small ones. Wants root, as Slurm's daemons do.
# FOLDER (default: a new one) keeps exports, logs and what Slurm said; $PYTHON is the interpreter (default: .venv's).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export FIT3D_BACKBONE_WEIGHTS=${FIT3D_BACKBONE_WEIGHTS:-offline}
python=${PYTHON:-.venv/bin/python}
node=$(hostname -s)

fail() {
    echo "$1" >&2
    exit "${2:-1}"
}

[ "$(id -u)" = 0 ] || fail "Slurm's daemons want root: sudo benchmarks/on_slurm.sh" 2
for command in munged slurmctld slurmd sbatch; do
    PATH=$PATH:/usr/sbin command -v $command >/dev/null || fail "$command is missing: apt-get install slurm-wlm" 2
done
PATH=$PATH:/usr/sbin
work=$(realpath -m "${1:-$(mktemp -d)}")
mkdir -p "$work"/{state,spool}
chmod go+rx "$work"

cat >"$work/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$node
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=60 State=UP
CONF
export SLURM_CONF=$work/slurm.conf

daemons=()
finish() {
    scancel --user=root 2>/dev/null || true
    kill "${daemons[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
}
trap finish EXIT

head -c 1024 /dev/urandom >"$work/munge.key"
chmod 400 "$work/munge.key"
munged --foreground --force --key-file="$work/munge.key" --socket="$work/munge.socket" --pid-file="$work/munge.pid" \
    --log-file="$work/munge.log" --seed-file="$work/munge.seed" &
daemons+=($!)
for _ in $(seq 50); do [ -S "$work/munge.socket" ] && break || sleep 0.2; done
slurmctld -D >/dev/null 2>&1 &
daemons+=($!)
slurmd -D -N "$node" >/dev/null 2>&1 &
daemons+=($!)
for _ in $(seq 100); do sinfo -h -o %T 2>/dev/null | grep -qx idle && break || sleep 0.3; done
sinfo | tee "$work/sinfo.txt"
sinfo -h -o %T | grep -qx idle || fail "the node is not ready: see $work/slurmctld.log and slurmd.log"

scenes() {
    "$python" -m fit3d_ns.commands.scenes --scenes examples/room_b examples/room_c --output-dir "$work/runs" \
        --work-dir "$work/outputs" --engine slurm --jobs 1 --gpus-per-scene 0 --cpus-per-scene 1 \
        --slurm-options "time=30" --method fit3d-features-fast --train-options="--max-num-iterations 40"
}

# The name of the next job that runs and is not $1.
next_job() {
    local job=""
    for _ in $(seq 1200); do
        kill -0 "$first" 2>/dev/null || fail "fit3d-scenes ended too soon: see $work/first.log"
        job=$(squeue -h -r -t RUNNING -o %i | grep -vx "${1:-none}" | head -1 || true)
        [ -n "$job" ] && break || sleep 0.5
    done
    [ -n "$job" ] || fail "no job ran: see $work/first.log"
    echo "$job"
}

scenes >"$work/first.log" 2>&1 &
first=$!
cancelled=$(next_job)
sleep 20
echo "Cancelling job $cancelled, as a cluster does that wants its machine back"
scancel "$cancelled"
killed=$(next_job "$cancelled")
sleep 20
echo "Killing all processes of job $killed, as where a machine fails"
scontrol listpids "${killed%%_*}" | awk 'NR > 1 && $1 > 0 {print $1}' | xargs -r kill -KILL
wait "$first" || fail "fit3d-scenes failed: see $work/first.log"
scenes 2>&1 | tee "$work/second.log"

"$python" - "$work" <<'CHECK'
import json, sys
from pathlib import Path

work = Path(sys.argv[1])
summary = json.loads((work / "runs" / "scenes.json").read_text())
states = {scene["scene"]: scene["state"] for scene in summary["scenes"]}
assert states == {"room_b": "done", "room_c": "done"}, states
assert all(scene["attempt"] == 1 for scene in summary["scenes"]), "a scene was made smaller though it was not its doing"
assert "0 scenes with" in (work / "second.log").read_text(), "the second start did a scene again"
CHECK
jobs=$(find "$work/outputs/slurm" -name '[0-9]*submission.sh' | wc -l)
[ "$jobs" = 3 ] || fail "sbatch was called $jobs times, not three"
echo "Both rooms are exported, each by its second job. Everything is in $work"
