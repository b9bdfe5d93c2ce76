# Makes a component of a filter in Python. To be sourced by a bash script that has `fail`:
# componentize_python TARGET.wasm FOLDER MODULE WIT-FOLDER WORLD

python_sdk=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

componentize_python() {
  local venv=${python_sdk%/*}/.tools
  command -v python3 >/dev/null || fail "python3 is missing: run 'apt-get install python3 python3-venv' and try again"
  if [ ! -x "$venv/bin/componentize-py" ]; then
    python3 -m venv "$venv" || fail "python3 has no venv: run 'apt-get install python3-venv' and try again"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$python_sdk/requirements.txt" ||
      fail "pip cannot fetch what $python_sdk/requirements.txt names: see above"
  fi
  # Every import of WASI becomes a stub that traps: a gateway grants none.
  (cd "$2" && "$venv/bin/componentize-py" --quiet -d "$4" -w "$5" componentize --stub-wasi \
    -p . -p "$python_sdk" "$3" -o "$1")
}
