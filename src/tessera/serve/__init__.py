"""The web page and its HTTP interface. The service (limits, shelf, jobs, requests, service) knows nothing of the page."""
