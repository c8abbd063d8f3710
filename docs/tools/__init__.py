"""What the site's build makes by itself: links,
the page of parameters, llms.txt, descriptions.
"""
