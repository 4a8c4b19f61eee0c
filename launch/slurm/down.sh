#!/usr/bin/env bash
# Stops what up.sh started, by its process ids, and waits for it. Usage: SLURM_LAB=DIR down.sh
set -euo pipefail

lab=${SLURM_LAB:?set SLURM_LAB to the folder up.sh was given}

# In this order, so that what writes to the database ends before the database does.
for file in "$lab"/n*.pid "$lab/slurmctld.pid" "$lab/slurmdbd.pid" "$lab/mysql/mariadb.pid"; do
  [[ -e $file ]] || continue
  pid=$(<"$file")
  kill "$pid" 2>/dev/null || continue
  for ((i = 0; i < 100; i++)); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
done
