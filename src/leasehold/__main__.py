from leasehold.cli.main import command

command()
