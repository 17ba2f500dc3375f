"""All that knows MLflow: runs are journalled on disk first, then sent to one store.

`Tracker` writes a run, `Store` says where to, `records` reads runs back, `send_late` sends what had to wait.
Importing this package does not import mlflow; the first use of a store does.
"""

from reid.tracking.data_input import DataInput
from reid.tracking.deliver import Delivery
from reid.tracking.ended_run import (
    attach,
    describe,
    fetch_artifact,
    read_run,
    replace_model,
    run_address,
)
from reid.tracking.errors import TrackingError, reason
from reid.tracking.journal import JOURNAL, under_way
from reid.tracking.late import LateDelivery, send_late, store_of
from reid.tracking.machine import Provenance, environment, hide_home
from reid.tracking.records import (
    RunRecord,
    all_runs,
    artifact_paths,
    children,
    experiment_names,
    fetch_checkpoint,
    list_runs,
    local_children,
    model_paths,
    newest_runs,
    read_record,
    run_folders,
    runs_of_ids,
    runs_that_begin,
)
from reid.tracking.registry import (
    SCHEME,
    check_names_to_register,
    check_reference,
    fetch_registered,
    register,
    registered_runs,
    run_registered_as,
)
from reid.tracking.removal import Removal, artifact_bytes, delete_runs, folder_bytes
from reid.tracking.store import Store, default_store, refuse_password, ui_command
from reid.tracking.tracker import SilentTracker, Status, Tracker, open_parent
from reid.tracking.ui_view import View, figure_markdown, prepare_views
from reid.tracking.uris import sqlite_uri

__all__ = [
    "JOURNAL",
    "SCHEME",
    "DataInput",
    "Delivery",
    "LateDelivery",
    "Provenance",
    "Removal",
    "RunRecord",
    "SilentTracker",
    "Status",
    "Store",
    "Tracker",
    "TrackingError",
    "View",
    "all_runs",
    "artifact_bytes",
    "artifact_paths",
    "attach",
    "check_names_to_register",
    "check_reference",
    "children",
    "default_store",
    "delete_runs",
    "describe",
    "environment",
    "experiment_names",
    "fetch_artifact",
    "fetch_checkpoint",
    "fetch_registered",
    "figure_markdown",
    "folder_bytes",
    "hide_home",
    "list_runs",
    "local_children",
    "model_paths",
    "newest_runs",
    "open_parent",
    "prepare_views",
    "read_record",
    "read_run",
    "reason",
    "refuse_password",
    "register",
    "registered_runs",
    "replace_model",
    "run_address",
    "run_folders",
    "run_registered_as",
    "runs_of_ids",
    "runs_that_begin",
    "send_late",
    "sqlite_uri",
    "store_of",
    "ui_command",
    "under_way",
]
