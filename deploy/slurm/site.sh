# shellcheck shell=bash
# Settings of a site, read by bathyscope.sbatch on the first node; every step inherits them.
# Copy it and name the copy in BATHYSCOPE_SITE, or edit it in place.

# Where bathyscope and ray are installed, with the same versions on every node:
#   module load cuda/13.0
#   . /shared/bathyscope/.venv/bin/activate

# The network that Ray and NCCL use, where nodes have several:
#   export BATHYSCOPE_INTERFACE=ib0 GLOO_SOCKET_IFNAME=ib0 NCCL_SOCKET_IFNAME=ib0

# symmetric: `ray symmetric-run` in one step, Ray 2.49 or newer. classic: a step for the head, one
# for the other nodes, one for the driver.
#   export BATHYSCOPE_LAUNCH=classic

# Secrets stay out of this file and of sbatch's words: `squeue` and accounting show those to all.
# A file that only its owner reads may set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, HF_TOKEN and
# WANDB_API_KEY.
secrets=${BATHYSCOPE_SECRETS:-$HOME/.config/bathyscope/secrets.sh}
if [ -f "$secrets" ]; then
    case $(stat --dereference --format %a "$secrets") in
        600 | 400) ;;
        *)
            echo "site.sh: $secrets can be read by others; run: chmod 600 $secrets" >&2
            exit 2
            ;;
    esac
    set -a
    # shellcheck source=/dev/null
    . "$secrets"
    set +a
fi
