"""What the literature knows: reviewed entries from papers, searched by the symptoms that make them relevant."""
