#!/usr/bin/env bash
# Runs one command of this project on the GPUs of one machine, or of several under Slurm.
#
#   launch/gpu_run.sh [--dry-run] [--venv DIR] -- gsva train gsva_7b --init CKPT --data DATA
#   srun --ntasks-per-node=1 launch/gpu_run.sh -- gsva train gsva_7b --init CKPT --data DATA
#
# One process a machine uses all its GPUs; several (--ntasks-per-node=8) take one each. Under Slurm and mpirun they find
# each other; elsewhere several machines need GROUNDING_COORDINATOR=HOST:PORT, GROUNDING_PROCESSES=N and
# GROUNDING_PROCESS=I. Makes DIR (.venv-cuda) at first.
set -euo pipefail

usage() { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }

dry_run=false venv=""
while (($#)); do
  case $1 in
    --dry-run) dry_run=true ;;
    --venv) venv=${2:?--venv needs a folder}; shift ;;
    --) shift; break ;;
    -h | --help) usage ;;
    *) echo "gpu_run.sh: unknown option '$1'; the command to run follows '--'" >&2; usage ;;
  esac
  shift
done
(($#)) || { echo "gpu_run.sh: no command; it follows '--'" >&2; usage; }

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${venv:-$root/.venv-cuda}

run() {
  if $dry_run; then printf '%q ' "$@"; echo; else "$@"; fi
}

if [[ ! -e $venv/.ready ]]; then
  # Several tasks may share the folder: one of them makes it.
  $dry_run || exec 9>"$venv.lock"
  run flock 9
  if [[ ! -e $venv/.ready ]]; then
    run python3 -m venv "$venv"
    run "$venv/bin/pip" install --quiet --editable "${root}[cuda]"
    run touch "$venv/.ready"
  fi
  run flock -u 9
fi
# The compiler may use most of the memory from the start, instead of asking for it piece by piece.
# exec: a signal to this script is one to the command, which saves and ends.
run exec env "PATH=$venv/bin:$PATH" XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 "$@"
