"""Which questions are methods of both clients, and of jobs."""

from withstand import routes
from withstand.request import JobRoute, Route


class ClientMethods:
    """Methods that send one request each; see `withstand.routes` for what they take and give."""

    models = Route(routes.models)
    model = Route(routes.model)
    add_model = Route(routes.add_model)
    remove_model = Route(routes.remove_model)
    datasets = Route(routes.datasets)
    dataset = Route(routes.dataset)
    add_dataset = Route(routes.add_dataset)
    presets = Route(routes.presets)
    attacks = Route(routes.attacks)
    architectures = Route(routes.architectures)
    predict = Route(routes.predict)
    explain = Route(routes.explain)
    explain_png = Route(routes.explain_png)
    submit = Route(routes.submit)
    estimate = Route(routes.estimate)
    evaluations_page = Route(routes.evaluations_page)
    evaluation = Route(routes.evaluation)
    control_evaluation = Route(routes.control_evaluation)
    cancel_evaluation = Route(routes.cancel_evaluation)
    remove_evaluation = Route(routes.remove_evaluation)
    prioritise_evaluation = Route(routes.prioritise_evaluation)
    limit_evaluation = Route(routes.limit_evaluation)
    label_evaluation = Route(routes.label_evaluation)
    report = Route(routes.report)
    report_as = Route(routes.report_as)
    rows = Route(routes.rows)
    class_scores = Route(routes.class_scores)
    calibration = Route(routes.calibration)
    comparison = Route(routes.comparison)
    queue = Route(routes.queue)
    control_queue = Route(routes.control_queue)
    devices = Route(routes.devices)
    failures = Route(routes.failures)


class JobMethods:
    """Methods of a job; their results are those of the client's methods about an evaluation."""

    read = JobRoute(routes.evaluation)
    report = JobRoute(routes.report)
    report_as = JobRoute(routes.report_as)
    rows = JobRoute(routes.rows)
    class_scores = JobRoute(routes.class_scores)
    calibration = JobRoute(routes.calibration)
    control = JobRoute(routes.control_evaluation)
    cancel = JobRoute(routes.cancel_evaluation)
    prioritise = JobRoute(routes.prioritise_evaluation)
    limit = JobRoute(routes.limit_evaluation)
    label = JobRoute(routes.label_evaluation)
