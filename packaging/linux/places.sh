# The service's directories are there without systemd, too. What another number owns, as after the
# system was installed anew, is the service's again; a link is for who made it to care for.
give_place() {
  if [ ! -e "$1" ] && [ ! -L "$1" ]; then
    install -d -o pg-collector -g pg-collector -m "$2" "$1" || true
  elif [ -d "$1" ] && [ ! -L "$1" ] && [ "$(stat -c %U "$1")" != pg-collector ]; then
    chown -R pg-collector:pg-collector "$1" || true
  fi
}

give_places() {
  give_place /var/lib/pg-collector 0700
  give_place /var/log/pg-collector 0750
}
