"""`python -m proxy` is the same command as `tidegate`."""

from proxy.cli.app import main

if __name__ == "__main__":
    main()
