"""Airflow: train, and publish only what has not exploded.

When something critical fires (3), the task is skipped with all that follows: trying again would change nothing. When
nothing is known (anything else; the server is being restarted, say), Airflow tries again.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow import DAG
from airflow.operators.bash import BashOperator

RUN = "mt/lstm-{{ ds_nodash }}"

CHECK = """
seismograd check "$RUN" --fail-on critical --wait --timeout 2h
verdict=$?
[ "$verdict" -eq 3 ] && exit 99   # Airflow: skipped, not tried again
exit "$verdict"
"""

with DAG("train_and_publish", start_date=datetime(2026, 1, 1, tzinfo=UTC), schedule="@daily", catchup=False) as dag:
    environment = {"RUN": RUN, "SEISMOGRAD_URL": "http://seismograd.example:7451"}
    train = BashOperator(
        task_id="train",
        bash_command='python train.py --project "${RUN%%/*}" --run "${RUN#*/}"',
        env=environment,
        append_env=True,
    )
    healthy = BashOperator(
        task_id="healthy",
        bash_command=CHECK,
        env=environment,
        append_env=True,
        retries=3,
        retry_delay=timedelta(minutes=1),
    )
    publish = BashOperator(task_id="publish", bash_command="python publish.py", env=environment, append_env=True)
    train >> healthy >> publish
