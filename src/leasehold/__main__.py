import sys

from leasehold.cli.main import main

sys.exit(main())
