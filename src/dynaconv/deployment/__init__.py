"""From a trained network to one for inference: norms folded, layers in their deployed form, run by a backend."""

from dynaconv.deployment.backends import register_backend
from dynaconv.deployment.deploy import DeploymentPlan, deploy, plan_deployment

__all__ = ["DeploymentPlan", "deploy", "plan_deployment", "register_backend"]
