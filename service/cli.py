"""The command `roundtrip`."""

import click

from service.archive import archive, unarchive
from service.backup import backup
from service.doctor import doctor
from service.explain import explain
from service.health import health
from service.imports import imports
from service.migrate import migrate
from service.purge import purge
from service.restore import after_restore, restore
from service.seed import seed
from service.serve import serve


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="roundtrip")
def main() -> None:
    """Roundtrip, the backend of a multi-user todo service.

    Settings come from the environment, in development also from .env; `roundtrip settings` lists them. Without a
    DATABASE_URL, `roundtrip serve` brings its own PostgreSQL.
    """


@main.command()
def settings() -> None:
    """List every setting, its default and its meaning."""
    from service.settings import table

    rows = table()
    width = max(len(name) for name, _, _ in rows)
    for name, default, meaning in rows:
        click.echo(f"{name:{width}}  {default or '-':12}  {meaning}")


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Measure the latency targets, ceilings, growth and peers."""
    import importlib

    try:
        suite = importlib.import_module("benchmarks.cli")
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the benchmarks are not here ({error}); in a clone of the project they are run by: "
            "uv run --group bench roundtrip bench"
        ) from error
    suite.bench.main(args=arguments, prog_name="roundtrip bench")


main.add_command(serve)
main.add_command(migrate)
main.add_command(health)
main.add_command(seed)
main.add_command(imports)
main.add_command(purge)
main.add_command(archive)
main.add_command(unarchive)
main.add_command(doctor)
main.add_command(explain)
main.add_command(backup)
main.add_command(restore)
main.add_command(after_restore)

if __name__ == "__main__":
    main(prog_name="roundtrip")
