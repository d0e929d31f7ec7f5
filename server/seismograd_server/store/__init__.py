"""The store: what must survive, behind one writer; SQLAlchemy Core only, every error translated to `errors.py`.

Database --begin()/read()--> Transaction --.runs .segments .steps .detectors .alerts .outbox--> model types
"""
