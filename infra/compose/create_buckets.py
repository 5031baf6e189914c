"""Makes each bucket named on the command line, unless it is there; keys and endpoint come from the environment."""

import sys

import boto3
from botocore.exceptions import ClientError


def create(names: list[str]) -> None:
    """Asks before it makes: a bucket that is there keeps what it holds."""
    store = boto3.client("s3")
    for name in names:
        try:
            store.head_bucket(Bucket=name)
        except ClientError as error:
            # Anything but "no such bucket" is a wrong key or a store that is not well.
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            store.create_bucket(Bucket=name)
            print(f"made bucket {name}")


if __name__ == "__main__":
    create(sys.argv[1:])
