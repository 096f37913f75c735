"""The operator's page: a Streamlit app over a reader of Delta that needs no JVM."""
