#!/usr/bin/env bash
# Runs one command of this project on all workers of a TPU VM that exists.
#
#   launch/tpu_run.sh [--dry-run] --name TPU --zone ZONE [--project PROJECT] -- \
#       gsva train gsva_7b --init gs://BUCKET/CKPT --data gs://BUCKET/DATA
#
# Copies the checkout to every worker, installs it there (once for each version of the files), starts the command on all
# of them, where the TPU's metadata server tells each of the others, shows what worker 0 prints, and ends with its exit
# status. Called again, it stops what an earlier call left running and starts anew; training then goes on from its newest
# checkpoint. Needs gcloud, and nothing on the workers.
set -euo pipefail

usage() { sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }

dry_run=false name="" zone="" project=""
while (($#)); do
  case $1 in
    --dry-run) dry_run=true ;;
    --name) name=${2:?--name needs the name of a TPU VM}; shift ;;
    --zone) zone=${2:?--zone needs a zone such as us-central2-b}; shift ;;
    --project) project=${2:?--project needs the name of a project}; shift ;;
    --) shift; break ;;
    -h | --help) usage ;;
    *) echo "tpu_run.sh: unknown option '$1'; the command to run follows '--'" >&2; usage ;;
  esac
  shift
done
[[ -n $name && -n $zone ]] || { echo "tpu_run.sh: --name and --zone say which TPU VM" >&2; usage; }
(($#)) || { echo "tpu_run.sh: no command; it follows '--'" >&2; usage; }

cd "$(dirname "${BASH_SOURCE[0]}")/.."
where=("$name" "--zone=$zone" ${project:+"--project=$project"})
archive=$(mktemp -t grounding.XXXXXX.tar.gz)
trap 'rm -f "$archive"' EXIT
if ! $dry_run; then
  git ls-files -z | grep -zv '^tests/golden/' | tar --null -czf "$archive" --files-from=-
fi

run() {
  if $dry_run; then printf '%q ' "$@"; echo; else "$@"; fi
}

# Quoted here, so that it arrives on the workers as it was typed.
command=$(printf '%q ' "$@")
# shellcheck disable=SC2016  # for the workers to expand
install='set -e
mkdir -p ~/grounding && cd ~/grounding
sum=$(sha256sum /tmp/grounding.tar.gz | cut -d" " -f1)
if [ "$sum" != "$(cat .installed 2>/dev/null)" ]; then
  rm -rf code && mkdir code && tar -xzf /tmp/grounding.tar.gz -C code
  [ -d venv ] || python3 -m venv venv
  venv/bin/pip install --quiet --editable "code[tpu]"
  echo "$sum" > .installed
fi'
# exec: the process that is noted down is that of the command, so a later call can stop it with its own signal.
start="cd ~/grounding/code
[ -f ../pid ] && kill -TERM \$(cat ../pid) 2>/dev/null && sleep 30
export PATH=\$HOME/grounding/venv/bin:\$PATH
echo \$\$ > ../pid
exec $command"

run gcloud compute tpus tpu-vm scp "$archive" "${where[0]}:/tmp/grounding.tar.gz" "${where[@]:1}" --worker=all
run gcloud compute tpus tpu-vm ssh "${where[@]}" --worker=all --command="$install"
# All workers run it; the others write to a file of their own, so that one log can be read.
run gcloud compute tpus tpu-vm ssh "${where[@]}" --worker=all --command="
if [ \"\$(hostname | grep -o '[0-9]*\$')\" = 0 ]; then exec 2>&1; else exec > ~/grounding/log 2>&1; fi
$start"
