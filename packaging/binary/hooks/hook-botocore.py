"""Of botocore's descriptions of services, those that logging in needs: a tenth of a megabyte."""

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files(
    "botocore",
    includes=[
        "cacert.pem",
        "data/endpoints.json",
        "data/partitions.json",
        "data/sdk-default-configuration.json",
        "data/_retry.json",
        "data/sts/**",
        "data/sso/**",
        "data/sso-oidc/**",
        "data/signin/**",
    ],
)
