"""Settings of Kubernetes: the pods that `ragdist k8s render` writes for these settings."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Literal

from pydantic import Field, field_validator

from ragdist.config.block import SettingsBlock

LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
"""What Kubernetes takes for a name (DNS-1123 label)."""
Group = Literal[
    "attacker",
    "generator",
    "attacker-writers",
    "generator-writers",
    "workers",
    "answerers",
    "trials",
    "replicas",
    "head",
]
"""Groups of pods that are all alike."""


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
    """Annotations of the pods' service account, for object storage without keys: eks.amazonaws.com/role-arn,
    iam.gke.io/gcp-service-account (GKE's metadata server may be asked), azure.workload.identity/client-id (the pods are
    labelled too)."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of every pod of Ray, such as NCCL_SOCKET_IFNAME; secrets belong into `kube.secret`."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of everything that is rendered, and of the pods, such as a team's for cost reports."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations of every pod, such as sidecar.istio.io/inject."""
    priority_class: str = ""
    """PriorityClass of every pod; empty takes the cluster's own default."""
    user: int = Field(1000, ge=0)
    """User and group, by number, that processes run as and that owns the storage; 0 leaves both to the platform, which
    OpenShift asks for."""
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
    resources: dict[str, int | str] = Field(default_factory=dict)
    """What a pod of ranks takes beside CPU, memory and GPUs, such as {vpc.amazonaws.com/efa: 4} or {rdma/hca: 1}."""
    node_labels: dict[str, str] = Field(default_factory=dict)
    """Labels of machines that may hold ranks, such as a pool of spot machines."""
    head_node_labels: dict[str, str] = Field(default_factory=dict)
    """Labels of machines that may hold the head; it should not be a spot machine."""
    taints: tuple[str, ...] = ("nvidia.com/gpu",)
    """Taints that ranks (and a head with a GPU) tolerate: a key, `key=value`, or either with `:NoSchedule` or
    `:NoExecute`."""
    group_node_labels: dict[Group, dict[str, str]] = Field(default_factory=dict)
    """Labels of machines that may hold one group of pods, beside `kube.node_labels`, as {attacker: {gpu: a100},
    generator: {gpu: h100}}."""
    group_taints: dict[Group, tuple[str, ...]] = Field(default_factory=dict)
    """Taints that one group tolerates beside `kube.taints`, as {attacker: ["spot=true:NoSchedule"], head: [cpu]}."""
    autoscaling: bool = False
    """KubeRay's own autoscaler: pods of ranks come when the job asks for slots and go when they are idle; not with
    `kube.queue`."""
    queue: str = ""
    """Kueue queue that admits the job when there is room for all of its pods; empty does without."""
    retries: int = Field(3, ge=0)
    """Times that a failed job begins again on new pods; it resumes from its run folder."""
    submitter_retries: int = Field(2, ge=0)
    """Times that the job is sent again to a head that was lost and came back, within one try; it resumes too."""
    grace_s: int = Field(90, ge=60)
    """Seconds that a pod has to end; Ray itself takes 30 to drain a machine."""
    deadline_s: int = Field(0, ge=0)
    """Longest time of one try, in seconds, from when it may start; it ends the job for good. A try that failed before
    begins the count anew, so that all may take `kube.retries` + 1 times as long. 0 has none."""
    start_timeout_s: int = Field(0, ge=0)
    """Longest wait, in seconds, for all pods of one try to be ready; then they are given back and the next try begins,
    `kube.retries` times, after which the job has failed. Time in Kueue's queue does not count. 0 has none."""
    keep_s: int = Field(600, ge=0)
    """Seconds that the pods stay after the job has ended, to look at them."""
    egress_ports: tuple[int, ...] = (443,)
    """TCP ports outside of the cluster that pods may reach, for the hub and object storage; the port of `teacher.url`
    is added."""
    dns_namespace: str = Field("kube-system", pattern=LABEL)
    """Namespace of the cluster's DNS, which pods may reach; openshift-dns on OpenShift."""
    dns_addresses: tuple[str, ...] = ("169.254.20.10/32",)
    """Address blocks of DNS servers that are no pods; NodeLocal DNSCache listens there."""
    metadata_servers: tuple[str, ...] = ()
    """Address and port of metadata servers that pods may reach, as 169.254.170.23:80 for EKS Pod Identity."""
    prometheus_namespace: str = ""
    """Namespace whose pods may read the metrics ports; empty lets nobody. `ragdist k8s render monitoring` has
    Prometheus ask."""
    clients: tuple[str, ...] = ()
    """serve: namespaces whose pods may ask, such as that of an ingress controller; empty is `kube.namespace` alone."""
    operator_namespace: str = Field("kuberay-operator", pattern=LABEL)
    """Namespace of the KubeRay operator, which alone may ask the dashboard from outside."""

    @field_validator("metadata_servers")
    @classmethod
    def _has_addresses(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            block(value)
        return values


def block(server: str) -> tuple[str, int]:
    """The address block and the port of a server, as 169.254.170.23:80; a ValueError if it is none."""
    host, _, port = server.rpartition(":")
    try:
        return str(ip_network(host.strip("[]"))), int(port)
    except ValueError:
        raise ValueError(f"{server!r} is no address with a port, as 169.254.170.23:80") from None
