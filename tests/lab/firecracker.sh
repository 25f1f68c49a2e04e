# SPDX-License-Identifier: Apache-2.0 OR MIT
# For the suites that run a real Firecracker in the lab: sourced in the folder of the tree.

if [ -z "${KELPIE_FIRECRACKER:-}" ]; then
    echo "skipped: set KELPIE_FIRECRACKER to the path of a Firecracker 1.7 or newer to run this" >&2
    exit 77
fi
program=$(realpath -e "$KELPIE_FIRECRACKER")
inside=$program
case $program in "$PWD"/*) inside=/kelpie${program#"$PWD"} ;; esac

# Runs the suite's groups, with the backend firecracker alone.
conform() {
    "$program" --version | head -n 1
    export KELPIE_CONFORMANCE_BACKENDS=firecracker
    exec tests/lab/lab --timeout 850 --with "$program" -- \
        env KELPIE_FIRECRACKER="$inside" conformance_test
}
