"""Preparation of trained networks for inference: folded norms, deployed layers, and the backends that run them."""

from dynaconv.deployment.backends import register_backend
from dynaconv.deployment.deploy import DeploymentPlan, deploy, plan_deployment

__all__ = ["DeploymentPlan", "deploy", "plan_deployment", "register_backend"]
