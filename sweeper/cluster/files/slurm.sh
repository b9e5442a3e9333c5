#!/usr/bin/env bash
# Runs a sweep as a Slurm job: starts a Ray head on the first node and a Ray worker on each other node, then the sweep.
#
#   sweeper cluster slurm > sweep.sh           then set the #SBATCH lines for your cluster
#   sbatch sweep.sh qa_backbones.yaml search.trials=24
#   squeue --me
#   sweeper status                             on any machine that reaches the ledger
#   sweeper stop qa_backbones                  or: scancel --batch --signal=INT JOBID
#   sbatch sweep.sh qa_backbones.yaml          resumes the sweep, also after the time limit ended it
#
# Submit from the folder of your search spaces, on a file system that all nodes share. Sweeps, checkpoints and features
# are written to SWEEPER_ROOT, by default ./sweeps. With several nodes the ledger must not be a file, because SQLite's
# locks are not safe on network file systems: export SWEEPER_LEDGER=postgresql://HOST/sweeper, with the password in
# ~/.pgpass. Install sweeper and the required Ray version into one virtual environment on the shared file system:
#   python3 -m venv ~/sweeper && ~/sweeper/bin/pip install '.[postgres,s3]' 'ray[train,tune]==2.60.0'
# Activate it before you call sbatch, since the job inherits your environment.
#
# Each job has its own token in a file that only you can read, so other users of the nodes cannot use its Ray.

#SBATCH --job-name=sweeper
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --signal=B:INT@120
#SBATCH --output=sweeper-%j.out

set -euo pipefail
umask 077

(($#)) || { echo "usage: sbatch $0 SEARCH_SPACE [KEY=VALUE]..." >&2; exit 2; }

export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/token-$SLURM_JOB_ID"
mkdir -p "$HOME/.ray"
python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"

head=$SLURMD_NODENAME
ip=$(python -c 'import ray; print(ray.util.get_node_ip_address())')
address="$ip:$((20000 + SLURM_JOB_ID % 10000))" # jobs on the same node need different ports
folder="/tmp/ray-$SLURM_JOB_ID" # short, because Ray's socket paths are limited in length
cpus=${SLURM_CPUS_PER_TASK:-1}

# Ends Ray whenever this script ends. scancel, the time limit and preemption end the processes on each node.
cleanup() {
    trap - EXIT
    rm -f "$RAY_AUTH_TOKEN_PATH"
    mapfile -t running < <(jobs -p)
    kill "${running[@]}" 2>/dev/null || true
    wait || true
}
trap cleanup EXIT

# Waits until the given number of nodes has joined.
await() {
    local deadline=$((SECONDS + 180))
    until [ "$(nodes)" = "$1" ]; do
        ((SECONDS < deadline)) || { echo "not all nodes came up; see sweeper-$SLURM_JOB_ID-*.log" >&2; exit 4; }
        sleep 2
    done
}
nodes() {
    python -c 'import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(sum(node["Alive"] for node in ray.nodes()))' "$address" 2>/dev/null || echo 0
}

srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --nodelist="$head" \
    ray start --head --block --port="${address##*:}" --node-ip-address="$ip" --num-cpus="$cpus" \
    --include-dashboard=false --disable-usage-stats --temp-dir="$folder" >"sweeper-$SLURM_JOB_ID-head.log" 2>&1 &
await 1

if ((SLURM_JOB_NUM_NODES > 1)); then
    others=$((SLURM_JOB_NUM_NODES - 1))
    srun --overlap --nodes=$others --ntasks=$others --cpus-per-task="$cpus" --exclude="$head" \
        ray start --block --address="$address" --num-cpus="$cpus" --disable-usage-stats \
        >"sweeper-$SLURM_JOB_ID-workers.log" 2>&1 &
    await "$SLURM_JOB_NUM_NODES" # the sweep would refuse trials that the present nodes cannot run
fi

# Passes a signal on to the sweep, which saves its running trials and ends. Then this script ends too.
sweeper run "$@" --address "$address" &
sweep=$!
trap 'kill -INT "$sweep" 2>/dev/null || true' INT TERM
code=0
wait "$sweep" || code=$?
while kill -0 "$sweep" 2>/dev/null; do # a trap ends `wait` early
    code=0
    wait "$sweep" || code=$?
done
exit "$code"
