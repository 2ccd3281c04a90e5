"""What a team's Prometheus and Grafana need of all runs of a namespace, once: who is asked, and what is drawn.

    monitor.yaml     PodMonitor of prometheus-operator: every Ray node of ours, by KubeRay's port `metrics`
    dashboard.yaml   ConfigMap with a dashboard, which Grafana's sidecar finds by its label

`kube.prometheus_namespace` lets Prometheus through the policies of each run.
"""

from __future__ import annotations

import json
from typing import Any

from ragdist.config import Settings
from ragdist.kube.objects import OURS, RUN, Manifest, named

NAME = "ragdist"
PANELS = (
    ("Loss", "loss", "short"),
    ("KL of the generator from its clean answers", "kl", "short"),
    ("Useful tokens a second", "useful_tokens_per_s", "short"),
    ("Share of time that ranks are busy", "busy_share", "percentunit"),
    ("Share of tokens that are padding", "padded_share", "percentunit"),
    ("Model FLOP utilisation", "mfu", "percentunit"),
    ("Forgeries written", "forged", "short"),
    ("Seconds of each finished phase", "span_seconds", "s"),
)
"""Title, gauge and unit of each: the numbers of metrics.jsonl, `docs/clusters.md`."""
WIDTH, HEIGHT, ACROSS = 12, 8, 2


def manifests(settings: Settings) -> dict[str, list[Manifest]]:
    """Manifests by file name, for all runs of `kube.namespace`."""
    labels = {**settings.kube.labels, **OURS}
    chosen = {"matchLabels": OURS, "matchExpressions": [{"key": RUN, "operator": "Exists"}]}
    spec = {
        "selector": chosen,
        "podMetricsEndpoints": [{"port": "metrics", "interval": "15s"}],
        "podTargetLabels": [RUN],
    }
    found = named("v1", "ConfigMap", f"{NAME}-dashboard", settings, {**labels, "grafana_dashboard": "1"})
    found["data"] = {f"{NAME}.json": json.dumps(dashboard(), indent=1, sort_keys=True) + "\n"}
    return {
        "monitor.yaml": [named("monitoring.coreos.com/v1", "PodMonitor", NAME, settings, labels, spec=spec)],
        "dashboard.yaml": [found],
    }


def dashboard() -> dict[str, Any]:
    """Grafana's dashboard of our gauges, of the runs and phases that are chosen."""
    source = {"type": "prometheus", "uid": "${source}"}
    variables: list[dict[str, Any]] = [{"name": "source", "type": "datasource", "query": "prometheus"}]
    variables += [
        {"name": name, "type": "query", "datasource": source, "multi": True, "includeAll": True, "refresh": 2}
        | {
            "query": f"label_values({{__name__=~'(ray_)?ragdist_.+'}}, {name})",
            "current": {"text": "All", "value": "$__all"},
        }
        for name in ("run", "phase")
    ]
    return {
        "title": "ragdist",
        "uid": "ragdist",
        "tags": ["ragdist", "ray"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": variables},
        "panels": [_panel(number, *panel, source) for number, panel in enumerate(PANELS)],
    }


def _panel(number: int, title: str, gauge: str, unit: str, source: dict[str, str]) -> dict[str, Any]:
    row, column = divmod(number, ACROSS)
    asked = f'max by (run, job, round, phase) ({{__name__=~"(ray_)?ragdist_{gauge}", run=~"$run", phase=~"$phase"}})'
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [{"refId": "A", "datasource": source, "expr": asked, "legendFormat": "{{run}} {{phase}} {{round}}"}],
    }
