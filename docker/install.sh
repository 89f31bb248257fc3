#!/bin/sh
# Install withstand from the folder this is called in, into the environment $VIRTUAL_ENV.
#
#   install.sh dependencies   makes the environment; reads pyproject.toml and requirements.lock alone
#   install.sh application    adds withstand itself
set -eu
[ -n "${UV_TORCH_BACKEND:-}" ] || unset UV_TORCH_BACKEND # uv refuses an empty one

# The environment is named each time, because UV_PYTHON would win over VIRTUAL_ENV and install elsewhere.
case "${1:-}" in
dependencies)
    uv venv --python "$(command -v python3)" "$VIRTUAL_ENV"
    # A torch build chosen by UV_TORCH_BACKEND (cpu, cu126, ...) has other hashes than the ones that are locked.
    uv pip install --python "$VIRTUAL_ENV" ${UV_TORCH_BACKEND:+--no-verify-hashes} \
        --constraint requirements.lock --requirements pyproject.toml --extra postgres --extra ray
    ;;
application)
    uv pip install --python "$VIRTUAL_ENV" --no-deps .
    ;;
*)
    echo "install.sh: expected dependencies or application, got '${1:-}'" >&2
    exit 2
    ;;
esac
