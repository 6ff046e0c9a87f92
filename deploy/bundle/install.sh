#!/bin/sh
# Installs the node from this bundle. Nothing is fetched: no index, no network.
#
#   ./install.sh [--prefix DIR] [--python PYTHON] [--demo]
#
# --prefix  folder of the installation, /opt/medrega-pacs without one (as root) or ~/.local/share/medrega-pacs
# --python  interpreter, of the version in the bundle's name
# --demo    run the demonstration afterwards
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
python=""
demo=""
if [ "$(id -u)" = 0 ]; then prefix=/opt/medrega-pacs; else prefix=$HOME/.local/share/medrega-pacs; fi

stop() { echo "install.sh: $1" >&2; exit 1; }

while [ $# -gt 0 ]; do
    case $1 in
        --prefix) [ $# -gt 1 ] || stop "--prefix needs a folder"; prefix=$2; shift ;;
        --python) [ $# -gt 1 ] || stop "--python needs an interpreter"; python=$2; shift ;;
        --demo) demo=yes ;;
        -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) stop "what is $1? --help tells" ;;
    esac
    shift
done

# cp311 in the bundle's name: the wheels are for Python 3.11 and no other.
tag=$(cat "$here/PYTHON")
if [ -z "$python" ]; then
    python=$(command -v "python$tag" || command -v python3) || stop "Python $tag is needed, and there is none"
fi
found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || stop "$python does not run"
[ "$found" = "$tag" ] || stop "this bundle is for Python $tag, and $python is $found; name another one by --python"

echo "Checking the bundle"
(cd "$here" && sha256sum --check --quiet --strict SHA256SUMS) || stop "the bundle is damaged: copy it again"

[ ! -e "$prefix" ] || [ -x "$prefix/bin/medrega-pacs" ] || [ -z "$(ls -A "$prefix")" ] ||
    stop "$prefix is there, and no installation of the node"
echo "Installing into $prefix"
# Without pip: Debian's python3 has none to put in, and the bundle brings one.
"$python" -m venv --without-pip "$prefix"
PIP_CONFIG_FILE=/dev/null PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    "$prefix/bin/python" "$(echo "$here"/wheels/pip-*.whl)/pip" install --quiet --upgrade --find-links "$here/wheels" \
    "$(echo "$here"/wheels/medrega_pacs-*.whl)[$(cat "$here/EXTRAS")]"
"$prefix/bin/medrega-pacs" version > /dev/null || stop "the installation does not run"
echo "Installed medrega-pacs $("$prefix/bin/medrega-pacs" version) in $prefix"

if [ -n "$demo" ]; then
    "$prefix/bin/medrega-pacs" demo
else
    echo "Try it:  $prefix/bin/medrega-pacs demo"
    echo "Then:    $here/deploy/INSTALL.md"
fi
