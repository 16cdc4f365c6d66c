"""Files for Docker and Kubernetes: linted, checked against the fields that they may have, and that their numbers fit together."""

import re
import subprocess
import tomllib

import jsonschema
import pytest
import yaml

from tests.launch.stand_ins import LAUNCH, TOOLS, assert_known_flags
from tests.processes.starting import ROOT

JOBSETS = sorted(LAUNCH.glob("jobset*.yaml"))


def fields(*required: str, **properties: dict) -> dict:
    """The schema of an object that has these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def several(item: dict) -> dict:
    return {"type": "array", "items": item, "minItems": 1}


TEXT, WHOLE, TRUTH = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
NAME = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
# The part of JobSet v1alpha2 and of Kubernetes' pods that jobsets here use; values must be of YAML's right type, or are refused.
CONTAINER = fields(
    *("name", "image", "args", "resources"),
    name=NAME,
    image=TEXT,
    args=several(TEXT),
    ports=several(fields("containerPort", containerPort=WHOLE)),
    resources=fields("limits", limits={"type": "object", "additionalProperties": WHOLE}),
    volumeMounts=several(fields("name", "mountPath", name=NAME, mountPath=TEXT)),
)
POD = fields(
    *("containers", "restartPolicy"),
    restartPolicy={"enum": ["Never"]},  # which podFailurePolicy wants
    terminationGracePeriodSeconds=WHOLE,
    securityContext=fields(runAsUser=WHOLE),
    nodeSelector=TEXTS,
    tolerations=several(
        fields(key=TEXT, operator={"enum": ["Exists", "Equal"]}, value=TEXT, effect={"enum": ["NoSchedule"]})
    ),
    containers=several(CONTAINER),
    volumes=several(
        fields(
            "name",
            name=NAME,
            persistentVolumeClaim=fields("claimName", claimName=NAME),
            emptyDir=fields(medium={"enum": ["Memory"]}),
        )
    ),
)
ON_EXIT = fields(
    *("operator", "values"), containerName=NAME, operator={"enum": ["In", "NotIn"]}, values=several(WHOLE)
)
ON_CONDITION = fields("type", "status", type={"enum": ["DisruptionTarget"]}, status={"enum": ["True"]})
JOB = fields(
    *("parallelism", "completions", "template"),
    parallelism=WHOLE,
    completions=WHOLE,
    backoffLimit=WHOLE,
    podFailurePolicy=fields(
        "rules",
        rules=several(
            fields(
                "action",
                action={"enum": ["FailJob", "FailIndex", "Ignore", "Count"]},
                onExitCodes=ON_EXIT,
                onPodConditions=several(ON_CONDITION),
            )
        ),
    ),
    template=fields("spec", spec=POD),
)
ACTIONS = ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]
JOBSET = fields(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=fields("name", name=NAME, annotations=TEXTS),
    spec=fields(
        "replicatedJobs",
        network=fields(enableDNSHostnames=TRUTH, publishNotReadyAddresses=TRUTH, subdomain=NAME),
        failurePolicy=fields(
            maxRestarts=WHOLE,
            rules=several(
                fields("action", name=NAME, action={"enum": ACTIONS}, onJobFailureReasons=several(TEXT))
            ),
        ),
        replicatedJobs=several(
            fields(*("name", "template"), name=NAME, replicas=WHOLE, template=fields("spec", spec=JOB))
        ),
    ),
)


@pytest.mark.parametrize("file", JOBSETS, ids=lambda path: path.name)
def test_jobset_has_known_fields_and_fits_together(file):
    jobset = yaml.safe_load(file.read_text())
    jsonschema.validate(jobset, JOBSET)
    (jobs,) = jobset["spec"]["replicatedJobs"]
    job = jobs["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    options = dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])
    assert_known_flags(container["args"])
    assert (ROOT / options["config"]).is_file()
    assert job["parallelism"] == job["completions"]
    assert job["backoffLimit"] == 0
    # a run that was asked to stop, and a pod whose node goes away, start all again, as often as it comes
    code, disrupted = job["podFailurePolicy"]["rules"]
    assert code["onExitCodes"]["containerName"] == container["name"]
    assert code["onExitCodes"]["values"] == [int(options["stopped_exit_code"])]
    assert disrupted["onPodConditions"][0]["type"] == "DisruptionTarget"
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert float(options["grace_seconds"]) < pod["terminationGracePeriodSeconds"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    for name in ("workdir", "config.data_dir", "config.weights_dir"):
        assert options[name].startswith(mounts["data"])
    if "coordinator" in options:
        name, subdomain = jobset["metadata"]["name"], jobset["spec"]["network"]["subdomain"]
        port = container["ports"][0]["containerPort"]
        assert options["coordinator"] == f"{name}-{jobs['name']}-0-0.{subdomain}:{port}"
        assert int(options["process_count"]) == job["completions"]
        assert options["process_index"] == "$(JOB_COMPLETION_INDEX)"


def test_dockerfile_is_linted_and_copies_all_that_is_needed():
    found = subprocess.run([TOOLS / "hadolint", LAUNCH / "Dockerfile"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    text = (LAUNCH / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (.*)$", text, re.M) for name in line.split()[:-1]}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"], "pyproject.toml", "kdhash", "configs"} == copied
    assert set(re.findall(r"EXTRA=(\w+)", text)) <= set(project["optional-dependencies"])
    for file in JOBSETS:
        assert set(re.findall(r"EXTRA=(\w+)", file.read_text())) <= set(project["optional-dependencies"])
