#!/usr/bin/env bash
# Run the tests: the fast ones and one real deployment; --fast: without it; --all: everything. Other words go to pytest.
# 运行测试：快速测试和一次真实部署；--fast 不做部署；--all 运行全部；其余参数传给 pytest。
set -euo pipefail
source "$(dirname "$0")/../lib/common.sh"
cd "$ROOT"
bash scripts/support/bootstrap.sh "$ROOT/.venv" requirements-dev.txt
root=$ROOT workers=3 chosen=(-m "not slow or smoke") room=10 # GiB that the deployments need
case ${1:-} in
  --fast) chosen=(-m "not slow") room=6 workers=4 && shift ;; # the tests of preflight need as much
  --all) chosen=() room=24 && shift ;;
esac

# Use the first directory with enough space: /tmp may be a small tmpfs.
room_in() { df --output=avail -BG -- "$1" 2>/dev/null | tr -dc 0-9 || true; }
for directory in "${RUNBOOK_TEST_DIR:-}" "${TMPDIR:-/tmp}" /var/tmp "$root/.test_cache"; do
  [[ -n $directory ]] || continue
  [[ $directory != "$root"/* ]] || run mkdir -p "$directory"
  [[ ! -w $directory ]] || (($(room_in "$directory") < room)) || break
done
printf '    TMPDIR=%s (%s GiB free, %s wanted)\n' "$directory" "$(room_in "$directory")" "$room"
export TMPDIR=$directory

# The tests must not read the settings file of this checkout: they run in a copy without it.
copy=''
if [[ -e .env ]] && ! dry; then
  copy=$(mktemp -d)
  trap 'rm -rf "$copy"' EXIT
  tar -c --exclude=./.env --exclude=./.venv --exclude=./.uv --exclude=./site --exclude='./.*_cache' . | tar -x --no-same-owner -C "$copy"
  ln -s "$root/.venv" "$root/.uv" "$copy"
  cd "$copy"
fi

# Several workers, even on two cores, because tests mostly wait. With -n 0 the tests run one after the other.
# Without PIP_INDEX_URL, tests use pip's own configuration instead of a mirror.
# Tests send Ctrl-C, which a process started in the background would ignore.
run env --default-signal=INT,QUIT PIP_INDEX_URL= "${RUNBOOK_BIN:-$root/.venv/bin}/python" -I -m pytest \
  -o cache_dir="$root/.pytest_cache" -n "$workers" "${chosen[@]}" "$@" || exit # pytest has reported why
