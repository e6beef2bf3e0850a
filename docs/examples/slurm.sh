#!/bin/bash
# Two nodes of eight GPUs; saved and put back into the queue when the time is nearly up: sbatch docs/examples/slurm.sh
#SBATCH --job-name=multihead
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=6
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=outputs/%x-%j.log

# The directory is named by the job, which keeps its number when it is requeued; resume=auto starts the run the first time
# and goes on with it each time after.
srun python train.py task=translation data=multi30k model=small hardware=slurm num_nodes=2 \
  run_dir="outputs/slurm-$SLURM_JOB_ID" resume=auto
