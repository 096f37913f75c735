"""The operator's page: a Streamlit app over a reader of Delta, without a JVM.

May use: `charts`, `lake`, `kafka`, and of `streaming` its reports; it starts no Spark.
"""
