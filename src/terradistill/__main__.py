from terradistill.cli import main

main()
