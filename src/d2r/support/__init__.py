"""What every other part uses: files, downloads, processes, memory, the registry."""
