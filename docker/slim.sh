#!/bin/sh
# Removes from .venv what no service, notebook or test here reaches, and compiles what
# they begin with; run in the step that installed it, or the image keeps it.
set -eu
packages=$(echo .venv/lib/python3.*/site-packages)

# uv has done its work. A shell for Spark Connect, in jars that no class path names. A
# map widget of the old notebook, twice. JupyterLab's page, which is in share/ as well,
# and its own tests. Names of countries in other languages. Headers for C++. Tests. What
# Amazon's services other than S3 are asked.
rm -rf .venv/bin/uv .venv/bin/uvx \
    "$packages"/pyspark/jars/connect-repl \
    "$packages"/pydeck/nbextension/static .venv/share/jupyter/nbextensions/pydeck \
    "$packages"/jupyterlab/static "$packages"/jupyterlab/galata \
    "$packages"/pycountry/locales \
    "$packages"/pyarrow/include \
    "$packages"/pandas/tests "$packages"/numpy/_core/tests "$packages"/pyarrow/tests
find "$packages"/botocore/data -mindepth 1 -maxdepth 1 -type d \
    ! -name 's3*' ! -name 'sts' ! -name 'sso*' -exec rm -rf {} +

# The root file system may be read-only: what is not compiled now is at every start.
.venv/bin/python -c 'import pyspark.sql, pyspark.sql.streaming, pandas, pyarrow.dataset
import deltalake, kafka, streamlit.web.cli, plotly.graph_objects
import dbt.cli.main, ipykernel.kernelapp, jupyterlab.labapp'
