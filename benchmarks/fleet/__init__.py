"""Several replicas behind the chart's Envoy: started here, measured, and simulated for more."""
