"""What the dashboards in grafana/dashboards show. scripts/make-dashboards.py writes them."""
