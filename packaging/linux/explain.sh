explain() {
  cat <<'STEPS'

PG Collector is installed, and not running yet. Three steps:

  1. Make the role that it logs in as, here over the local socket:
       pgc setup sql --user pg-collector --auth peer | sudo -u postgres psql
  2. Say where samples go: platform.url in /etc/pg-collector/config.yaml; the API key in a file of
     its own, which only root reads and only the service is given:
       sudo install -m 600 /dev/stdin /etc/pg-collector/credentials/api_key
  3. Check the whole path, then start it:
       sudo pgc check && sudo systemctl enable --now pg-collector

Then look: sudo pgc status; curl -s http://127.0.0.1:8080/healthz

STEPS
}
