# Read by the scripts of this folder: a command that Slurm's warning saves and puts back into the queue.
#
#   save_and_requeue COMMAND…    runs it, and ends with its exit code
#
# Slurm warns this shell alone (--signal=B:USR1@300). The command gets SIGTERM then, saves between two steps and
# ends; the job goes back into the queue, starts again from the top, and the command goes on by itself. A job that
# is cancelled or has to make room gets SIGTERM from Slurm, every process of it; it is saved and stays ended.

stop_it() { # a script whose command is srun, which would cut its tasks off, has its own
    kill -TERM "$1"
}

save_and_requeue() {
    local code warned=no
    "$@" &
    local command=$!
    trap 'warned=yes; stop_it "$command"' USR1
    trap 'warned=no' TERM # the command has it too, and this shell waits for it
    while kill -0 "$command" 2>/dev/null; do
        wait "$command" # until it ends, or a signal comes
    done
    wait "$command"
    code=$?
    if [ "$warned" = yes ] && [ "$code" != 0 ]; then
        echo "saved before the end of job $SLURM_JOB_ID (exit code $code): back into the queue"
        scontrol requeue "$SLURM_JOB_ID"
        sleep 60 # Slurm ends this shell
    fi
    return "$code"
}
