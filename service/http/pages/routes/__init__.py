"""The routes of the pages, a module for each."""

from service.http.pages.routes import evaluation, new_evaluation, queue, start

PAGES = (start, new_evaluation, evaluation, queue)
"""Those that there are; what each shows is under /v1 as JSON."""
