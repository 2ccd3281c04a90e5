"""Kubernetes through KubeRay: `render` writes what a job needs, `check` reads it as a cluster would, `client` runs it.

settings + plan -> pods.py: groups of pods -> render.py: a folder of manifests
a run           -> service.py: a RayService of it;  a namespace -> monitoring.py: what Prometheus and Grafana need
a folder        -> schema.py, names.py, rules.py, core.py, hardening.py, bundle.py -> findings
a folder        -> client.py: submit, status (status.py), logs, delete, by request.py
"""
