"""Submissions that come at the same time, and addresses as people write them, on a head in memory."""

import threading
from types import SimpleNamespace

import pytest

from ragdist.cluster import submit
from ragdist.cluster.submit import Order
from ragdist.config import loader
from ragdist.errors import ConfigError


class Head:
    """What a head keeps of jobs; each id once; all have asked before any sends."""

    def __init__(self, together: int = 1) -> None:
        self.jobs: list[SimpleNamespace] = []
        self.addresses: list[str] = []
        self.lock, self.late = threading.Lock(), threading.Barrier(together)
        self.asked = threading.local()

    def __call__(self, address):
        self.addresses.append(address)
        return self

    def list_jobs(self):
        found = list(self.jobs)
        if not getattr(self.asked, "before", False):
            self.asked.before = True
            self.late.wait(10)
        return found

    def submit_job(self, *, entrypoint, submission_id, runtime_env, metadata):
        with self.lock:
            if any(job.submission_id == submission_id for job in self.jobs):
                raise RuntimeError(
                    f"Request failed with status code 500: Job with submission_id {submission_id} already exists."
                )
            status = SimpleNamespace(is_terminal=lambda: False, value="RUNNING")
            self.jobs.append(
                SimpleNamespace(submission_id=submission_id, metadata=metadata, status=status, driver_exit_code=None)
            )
        return submission_id

    def get_job_info(self, name):
        return next(job for job in self.jobs if job.submission_id == name)


def order(address="http://127.0.0.1:8265"):
    return Order("raft", loader.load(["run.name=night", "run.folder=/shared/runs"]), address)


def test_K10_of_submits_at_once_one_sends_and_the_others_follow_it(monkeypatch):
    head, found = Head(together=3), []
    monkeypatch.setattr(submit, "JobSubmissionClient", head)
    threads = [threading.Thread(target=lambda: found.append(submit.submit(order()).id)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == ["night-1"] * 3 and len(head.jobs) == 1


def test_K10_an_id_that_something_else_has_is_left_to_it(monkeypatch):
    head = Head()
    head.submit_job(entrypoint="", submission_id="night-1", runtime_env={}, metadata={})
    monkeypatch.setattr(submit, "JobSubmissionClient", head)
    assert submit.submit(order()).id == "night-2"


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("127.0.0.1:8265", "http://127.0.0.1:8265"),
        ("head.example.com:8265", "http://head.example.com:8265"),
        ("localhost:8265", "http://localhost:8265"),
        ("[::1]:8265", "http://[::1]:8265"),
        ("https://head.example.com", "https://head.example.com"),
    ],
)
def test_K10_an_address_without_a_scheme_is_that_of_the_dashboard(address, wanted, monkeypatch):
    head = Head()
    monkeypatch.setattr(submit, "JobSubmissionClient", head)
    submit.submit(order(address))
    assert head.addresses == [wanted]


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "ftp://head:8265"])
def test_K10_an_address_of_something_else_is_refused_at_once(address):
    with pytest.raises(ConfigError, match=r"http://host:8265"):
        submit.submit(order(address))


def test_K10_a_head_that_is_not_there_is_one_line():
    with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:9 "):
        submit.submit(order("127.0.0.1:9"))
