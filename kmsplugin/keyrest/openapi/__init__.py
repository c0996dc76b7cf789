"""The OpenAPI 3.1 document of the REST face.

It is built from what the face works with itself: the models that read bodies, the
table of errors, the roles and the bounds of the domain. What is written here by hand
is prose and the shape of answers, and tests hold both against the application.
"""
