"""A tour of edged: runs it as on a device, asks and updates it, cuts its power, looks at it from afar, stops it.

Nothing is simulated: the daemon, its workers, the models, the keys, the repository and the requests are those of the
product. Everything lives in a temporary folder, which is removed at the end.
"""
