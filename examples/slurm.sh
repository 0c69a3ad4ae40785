#!/bin/bash
# A run on four nodes with two GPUs each, a worker a node: sbatch slurm.sh
#
# Change the numbers, the arguments of the run at the end, and what makes `tf-finetune-launch`
# be found on the nodes. The run folder must be one that all nodes see: worker 0 alone writes
# it, all read its checkpoints.
#SBATCH --job-name=fine-tune
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=2
#SBATCH --time=04:00:00
#SBATCH --requeue
# SIGTERM to the workers two minutes before the time is over: they write a checkpoint.
#SBATCH --signal=TERM@120
# The output goes on in the same file after a requeue.
#SBATCH --open-mode=append

# CHANGE: source /shared/venv/bin/activate

# Tasks in blocks, as the workers' addresses are worked out. A task that ends badly must not
# end the others at once: they say who was lost, within half a minute.
srun --distribution=block --kill-on-bad-exit=0 \
  tf-finetune-launch -- \
  --config=recipe.py --workdir=runs/mine --config.fit.strategy=multi_worker
status=$?

# 75: a worker was lost. 137: one was killed. 143: stopped by SIGTERM. Each goes on from the
# last checkpoint; any other status would only come again.
case "$status" in
75 | 137 | 143)
  if [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
  fi
  ;;
esac
exit "$status"
