"""How rondo's data look to Prometheus, whoever hands them over: labels, samples, the lives of an instance."""
