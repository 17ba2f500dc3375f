"""A search from its first trial to the winner on `test`."""

import os

from experiments.tune.report import close_parent, open_study_run
from experiments.tune.study import Search
from experiments.tune.trials import run_trials
from experiments.tune.winner import judge_winner
from experiments.tune.workers import WORKER, run_workers
from reid.engine.stop import Stopped
from reid.jobs.job import Job
from reid.tracking import Status


def run(job: Job) -> dict[str, float]:
    """All trials that the study still lacks, then the winner on `test`; its score by the tracker's names."""
    worker = os.environ.get(WORKER)
    search = Search.of(job, create=worker is None)
    if worker is not None:
        run_trials(search, job)
        return {}
    job.console.print(search.progress(), highlight=False, soft_wrap=True)
    parent = open_study_run(search)
    scores: dict[str, float] = {}
    status: Status = "FAILED"
    try:
        if search.settings.study.jobs > 1:
            run_workers(search, job)
        # Alone, or what a worker that was killed has left.
        run_trials(search, job)
        scores = judge_winner(search, job)
        status = "FINISHED"
    except Stopped:
        status = "KILLED"
        raise
    finally:
        summary = close_parent(search, parent, scores, status)
        job.console.print(summary, highlight=False, soft_wrap=True)
    return scores
