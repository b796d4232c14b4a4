#!/bin/sh
# Counts the words of notes/LANGUAGE-*.txt into counts/LANGUAGE.txt.
set -eu
language=$1
echo "counting $language on $(hostname)"
total=0
for note in notes/"$language"-*.txt; do
    words=$(wc -w < "$note")
    echo "$note: $words" >&2
    total=$((total + words))
done
echo "$language $total" > "counts/$language.txt"
echo "done"
