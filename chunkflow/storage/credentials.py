"""What S3 asks for: taken from the environment, else from the files of the AWS tools, by this process for itself.

The environment (AWS_ACCESS_KEY_ID and the like, AWS_SKIP_SIGNATURE, roles of containers, pods and machines) is read by
the store's library. It does not read ~/.aws/credentials and ~/.aws/config, so those are read here: keys, region and
endpoint of the profile AWS_PROFILE. Profiles that sign in by other means (sso, roles) need boto3.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chunkflow.errors import AccessError

_IN_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_BY_OTHER_MEANS = ("sso_session", "sso_start_url", "role_arn", "credential_process")


def s3_options() -> dict[str, Any]:
    """What the environment does not say of region, endpoint and keys, as arguments of the store.

    Raises
    ------
    AccessError : the profile signs in by means that need boto3, which is not installed.
    """
    name = os.environ.get("AWS_PROFILE", "default")
    profile = _profile("AWS_CONFIG_FILE", "config", name if name == "default" else f"profile {name}")
    keys = _profile("AWS_SHARED_CREDENTIALS_FILE", "credentials", name)
    options: dict[str, Any] = {}
    if "region" in profile and not any(os.environ.get(n) for n in ("AWS_REGION", "AWS_DEFAULT_REGION")):
        options["region"] = profile["region"]
    if "endpoint_url" in profile and not any(os.environ.get(n) for n in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT")):
        options["endpoint"] = profile["endpoint_url"]
    if any(os.environ.get(n) for n in _IN_ENVIRONMENT) or os.environ.get("AWS_SKIP_SIGNATURE", "").lower() == "true":
        return options
    return options | _signing({**profile, **keys}, name)


def _signing(profile: Mapping[str, str], name: str) -> dict[str, Any]:
    if "aws_access_key_id" in profile and "aws_secret_access_key" in profile:
        found = {
            "access_key_id": profile["aws_access_key_id"],
            "secret_access_key": profile["aws_secret_access_key"],
        }
        token = profile.get("aws_session_token")
        return {**found, "token": token} if token else found
    if not any(key in profile for key in _BY_OTHER_MEANS):
        return {}
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise AccessError(
            f"the AWS profile {name} signs in by {next(k for k in _BY_OTHER_MEANS if k in profile)}, which needs boto3",
            "pip install boto3, or put the keys into the environment: aws configure export-credentials --format env",
        ) from None
    return {"credential_provider": Boto3CredentialProvider()}


def _profile(variable: str, file: str, section: str) -> dict[str, str]:
    path = Path(os.environ.get(variable) or Path.home() / ".aws" / file)
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
        return dict(parser[section]) if parser.has_section(section) else {}
    except (configparser.Error, UnicodeDecodeError):
        raise AccessError(f"{path} cannot be read", "Correct it, or set the credentials in the environment") from None
