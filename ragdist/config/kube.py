"""Settings of Kubernetes: the pods that `ragdist k8s render` writes for these settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ragdist.config.block import SettingsBlock

LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
"""What Kubernetes takes for a name (DNS-1123 label)."""


class KubeConfig(SettingsBlock):
    """A job on Kubernetes through KubeRay (`ragdist k8s`)."""

    namespace: str = Field("ragdist", pattern=LABEL)
    """Namespace of everything that is rendered; it must be there."""
    image: str = ""
    """Image with Ray and ragdist, with a tag or a digest; empty is `ragdist:` and the version that renders."""
    pull_secret: str = ""
    """Secret with the registry's credentials; empty for images that all may pull."""
    storage: Literal["claim", "existing", "s3"] = "claim"
    """Where the run folder lies. claim: a new ReadWriteMany claim; existing: a claim that is there; s3: a bucket
    mounted by the CSI driver `kube.s3_driver`."""
    claim: str = Field("ragdist", pattern=LABEL)
    """Name of the claim, for all three kinds of storage."""
    storage_class: str = ""
    """claim: a class that can be mounted by several machines (NFS, CephFS, EFS, Filestore); empty is the cluster's own
    default."""
    storage_gib: int = Field(200, ge=1)
    """claim, s3: size of the claim, in GiB."""
    s3_driver: str = "csi.juicefs.com"
    """s3: a CSI driver whose file system renames, appends and locks; a run folder needs all three."""
    s3_secret: str = "ragdist-s3"
    """s3: secret in `kube.namespace` that tells the driver of the bucket."""
    mount: str = Field("/shared", pattern=r"^/[^/].*[^/]$")
    """Where the storage is mounted in every pod; a relative `run.folder` lies below it, models of the hub too."""
    secret: str = "ragdist-keys"
    """Secret whose entries are environment variables of every pod, such as HF_TOKEN and AWS_ACCESS_KEY_ID; it may be
    missing."""
    account_annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations of the pods' service account, such as eks.amazonaws.com/role-arn, for object storage without keys."""
    workers_per_pod: int = Field(1, ge=1)
    """Ranks that share a pod and its GPUs: as many as a machine has GPUs is fastest and needs the fewest machines."""
    side_by_side: bool = False
    """duet: pods for reciter and discoverer at the same time, twice as many."""
    memory_gib: float = Field(0, ge=0)
    """Host memory of one rank, of a replica of `ragdist k8s render serve`, and of a driver that asks a model, in GiB; 0
    takes what `ragdist plan` counts, which it cannot for a model that is not on this machine."""
    head_cpus: int = Field(2, ge=1)
    """CPU cores of the head's pod, where the driver runs; ranks get none of them."""
    head_memory_gib: float = Field(0, ge=0)
    """Memory of the head's pod, in GiB; 0 takes what `ragdist plan` counts for the driver."""
    gpu_resource: str = "nvidia.com/gpu"
    """Kubernetes' name of a GPU."""
    node_labels: dict[str, str] = Field(default_factory=dict)
    """Labels of machines that may hold ranks, such as a pool of spot machines."""
    head_node_labels: dict[str, str] = Field(default_factory=dict)
    """Labels of machines that may hold the head; it should not be a spot machine."""
    taints: tuple[str, ...] = ("nvidia.com/gpu",)
    """Keys of taints that ranks (and a head with a GPU) tolerate."""
    autoscaling: bool = False
    """KubeRay's own autoscaler: pods of ranks come when the job asks for slots and go when they are idle; not with
    `kube.queue`."""
    queue: str = ""
    """Kueue queue that admits the job when there is room for all of its pods; empty does without."""
    retries: int = Field(3, ge=0)
    """Times that a failed job begins again on new pods; it resumes from its run folder."""
    grace_s: int = Field(90, ge=60)
    """Seconds that a pod has to end; Ray itself takes 30 to drain a machine."""
    deadline_s: int = Field(0, ge=0)
    """Longest time of the job with all retries, in seconds; 0 has none."""
    keep_s: int = Field(600, ge=0)
    """Seconds that the pods stay after the job has ended, to look at them."""
    egress_ports: tuple[int, ...] = (443,)
    """TCP ports outside of the cluster that pods may reach, for the hub and object storage; the port of `teacher.url`
    is added."""
    clients: tuple[str, ...] = ()
    """serve: namespaces whose pods may ask, such as that of an ingress controller; empty is `kube.namespace` alone."""
    operator_namespace: str = Field("kuberay-operator", pattern=LABEL)
    """Namespace of the KubeRay operator, which alone may ask the dashboard from outside."""
