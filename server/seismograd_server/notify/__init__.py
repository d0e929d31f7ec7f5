"""Telling people: from the outbox to Alertmanager, webhooks, chats and Grafana, at least once each, by one worker."""

from seismograd_server.notify.endpoint import Target, TargetConfig
from seismograd_server.notify.entries import entries_for
from seismograd_server.notify.lane import DeliveryPolicy
from seismograd_server.notify.targets import build_targets
from seismograd_server.notify.templates import Words
from seismograd_server.notify.worker import Worker

__all__ = ["DeliveryPolicy", "Target", "TargetConfig", "Words", "Worker", "build_targets", "entries_for"]
